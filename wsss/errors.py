"""The one exception for bad input: its message is one line, with the fix."""

import errno
import re

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)
MORE_FILES = "raise the limit (ulimit -n), and run the same command again"


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


def masked(text: str) -> str:
    """A text without the credentials in its addresses, such as a tracking server's."""
    return re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)
