"""The command line, a file for each command.

Exit code 2 for bad input, 1 for a failure.
"""

import argparse
import os
import sys

from wsss.cli import bench, data, doctor, export, label, reproduce, run, weights
from wsss.errors import InputError, masked

# each has ``add(commands)``
COMMANDS = (run, reproduce, data, label, weights, export, bench, doctor)


def parser():
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="wsss", description="From image-level labels to pixel labels."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="command")
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
    except KeyboardInterrupt:
        print("wsss: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as failure:  # such as a full disk
        if parsed.debug:
            raise
        reason = failure.strerror or type(failure).__name__
        place = f"{failure.filename}: " if failure.filename else ""
        print(
            f"wsss: {masked(f'{place}{reason}')}; mend that, and the same command goes on",
            file=sys.stderr,
        )
        return 1
    except RuntimeError as failure:
        if parsed.debug:
            raise
        print(f"wsss: {masked(str(failure))}", file=sys.stderr)
        return 1
