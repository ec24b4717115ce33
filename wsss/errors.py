"""The one exception for what a person gave us: its message is one line, with the mend."""

import re


class InputError(ValueError):
    """Something given by a person (a file, a parameter, a name) is wrong.

    The message says what was expected, what came and how to mend it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """

    def __init__(self, message):
        super().__init__(one_line(message))


def one_line(text):
    """A text in which everything that is not to be seen is told by its code: names of files may
    hold line ends, colours for terminals and halves of characters.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in str(text)
    )


def reason(error):
    """What an exception of a library says, its first line, for the middle of a message."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def masked(text):
    """A text without the credentials of the addresses in it, such as a tracking server's."""
    return re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)
