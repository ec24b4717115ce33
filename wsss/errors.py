"""The one exception for what a person gave us: its message is one line, with the mend."""

import re


class InputError(ValueError):
    """Something given by a person (a file, a parameter, a name) is wrong.

    The message says what was expected, what came and how to mend it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """


def masked(text):
    """A text without the credentials of the addresses in it, such as a tracking server's."""
    return re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)
