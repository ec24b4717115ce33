"""The command line, a file for each command.

Exit code 2 for bad input, 1 for a failure.
"""

import argparse
import errno
import os
import sys

from wsss.cli import bench, data, doctor, export, forecast, label, reproduce, run, weights
from wsss.errors import InputError, masked, one_line

# each has ``add(commands)``
COMMANDS = (run, forecast, reproduce, data, label, weights, export, bench, doctor)
# of a path that was given, not of the machine
OF_A_PATH = (
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM, errno.EROFS),
)


class Grammar(argparse.ArgumentParser):
    """A parser whose errors are one line, without the whole usage before it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def parser():
    """The command line's grammar."""
    top = Grammar(prog="wsss", description="From image-level labels to pixel labels.")
    commands = top.add_subparsers(
        title="commands", dest="command", required=True, metavar="command"
    )
    for command in COMMANDS:
        command.add(commands)
    return top


def main(arguments=None):
    """Run a command; returns the exit code."""
    grammar = parser()
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go: those behind an option come back as a rest
    fits = hasattr(parsed, "overrides") and all(
        not text.startswith("-") and "=" in text for text in rest
    )
    if rest and not fits:
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    try:
        code = parsed.action(parsed) or 0
        sys.stdout.flush()  # while a closed pipe can still be caught
        return code
    except InputError as fault:
        if parsed.debug:
            raise
        print(f"wsss: {masked(str(fault))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as failure:  # no such place, no permission, no room
        if parsed.debug:
            raise
        reason = masked(one_line(failure))
        print(f"wsss: {reason}; fix that, or give another path", file=sys.stderr)
        return 2 if failure.errno in OF_A_PATH else 1
    except KeyboardInterrupt:
        print("wsss: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except RuntimeError as failure:
        if parsed.debug:
            raise
        print(f"wsss: {masked(one_line(failure))}", file=sys.stderr)
        return 1
