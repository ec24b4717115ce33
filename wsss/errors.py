"""The one exception for bad input: its message is one line, with the fix."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A file, a parameter or a name that a person gave is wrong: in one line what was expected,
    what came and the fix. The command line prints no traceback and exits with code 2.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


def one_line(text: object) -> str:
    """A text with unprintable characters as escapes, such as line ends in the names of files."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in str(text)
    )


def reason(error: BaseException) -> str:
    """The first line of a library's exception, for the middle of a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name that a misspelt one is closest to; else empty."""
    close = get_close_matches(given, list(known), 1) if isinstance(given, str) else []
    return f" (did you mean '{close[0]}'?)" if close else ""


def masked(text: str) -> str:
    """A text without the credentials in its addresses, such as a tracking server's."""
    return re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)
