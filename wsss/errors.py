"""The one exception for bad input: its message is one line, with the fix."""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
MORE_FILES = "raise the limit (ulimit -n), and run the same command again"
# names of what must not be shown
SECRET = re.compile(
    "token|secret|passw|credential|(?:private|api|access)[_-]?key|authorization", re.IGNORECASE
)
# one character of an address, which ends at a blank, an angle bracket, a quote that no letter
# follows, or the next address
CHARACTER = r"""(?:(?!://)[^\s'"<>]|['"](?=\w))"""
# before the host: a password may contain @ and /; without a colon, / begins the path
CREDENTIALS = re.compile(
    rf"(?<=://)(?:(?:(?![/:@]){CHARACTER})*:{CHARACTER}*|(?:(?!/){CHARACTER})*)@"
)
# values of parameters such as ?token= and &X-Amz-Signature=
PARAMETERS = re.compile(
    rf"([?&#;](?:[\w.%-]{{0,60}}(?:{SECRET.pattern}|signature)[\w.%-]{{0,60}}|sig|key|auth)=)"
    rf"(?:(?![&#]){CHARACTER})+(?<![,.;)\]}}])",
    re.IGNORECASE,
)


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


def raise_if_out_of_files(error: BaseException) -> None:
    """Raise RuntimeError if too many files are open: the file that met the error may be sound."""
    if getattr(error, "errno", None) in OUT_OF_FILES:
        raise RuntimeError(f"{error}; {MORE_FILES}") from error


def reason(error: BaseException) -> str:
    """The first line of a library's exception, for the middle of a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name that a misspelt one is closest to; else empty."""
    close = get_close_matches(given, list(known), 1) if isinstance(given, str) else []
    return f" (did you mean '{close[0]}'?)" if close else ""


def masked(text: str) -> str:
    """A text without the credentials in its addresses, such as a tracking server's: what stands
    before the host, and values of parameters such as ``token``.
    """
    return PARAMETERS.sub(r"\1***", CREDENTIALS.sub("***@", text))
