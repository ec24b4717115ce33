"""The one exception for what a person gave us: its message is one line, with the mend."""


class InputError(ValueError):
    """Something given by a person (a file, a parameter, a name) is wrong.

    The message says what was expected, what came and how to mend it, in one line. The command line
    prints it without a traceback and exits with code 2.
    """
