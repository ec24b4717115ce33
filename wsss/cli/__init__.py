"""The command line. Exit code 2 for bad input, 1 for a failure."""

import argparse
import errno
import io
import os
import re
import sys

from wsss import __version__
from wsss.cli import data, doctor, export, label, run
from wsss.errors import MORE_FILES, OUT_OF_FILES, InputError, did_you_mean, masked, one_line
from wsss.io.text import UNWRITABLE

COMMANDS = (run, data, label, export, doctor)  # each has ``add(commands)``
# errors of a given path, not of the machine
PATH_ERRORS = (
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM, errno.EROFS),
)


class Grammar(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message):
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"{self.prog}: {masked(one_line(message))}; see {self.prog} --help\n")


def _use_utf8():
    """Start again in Python's UTF-8 mode, which subprocesses inherit, where the locale has another
    encoding: names of photos would be others there.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _prepare_streams():
    """Open those of the standard streams that were closed, as `>&-` does, to nowhere: a file opened
    later would take their place. What the others cannot encode is printed as escapes.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parser() -> argparse.ArgumentParser:
    top = Grammar(prog="wsss", description="From image-level labels to pixel labels.")
    top.add_argument("--version", action="version", version=f"wsss {__version__}")
    group = top.add_subparsers(title="commands", dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add(group)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command (by default, that of the command line); returns the exit code."""
    if arguments is None:
        _use_utf8()
    _prepare_streams()
    os.environ.pop("MPLBACKEND", None)  # a shell's; commands draw into files, notebooks inline
    grammar = parser()
    given = sys.argv[1:] if arguments is None else arguments
    if wrong := next(filter(UNWRITABLE.search, given), None):
        grammar.error(f"{wrong}: expected text in UTF-8; rename it")
    if not given:
        grammar.print_help()
        return 0
    parsed, rest = grammar.parse_known_args(arguments)
    # argparse takes positional arguments in one go and returns those after an option in ``rest``
    if hasattr(parsed, "overrides") and all(re.match("[^-].*=", text) for text in rest):
        parsed.overrides += rest
    elif rest:
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code = parsed.action(parsed) or 0
        sys.stdout.flush()  # while a closed pipe can still be caught
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("wsss: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    except (InputError, OSError, RuntimeError) as failure:
        if parsed.debug:
            raise
        text, bad_input = one_line(failure), isinstance(failure, InputError)
        if isinstance(failure, OSError):
            out = failure.errno in OUT_OF_FILES
            text += f"; {MORE_FILES if out else 'fix that, or give another path'}"
            bad_input = failure.errno in PATH_ERRORS
        print(f"wsss: {masked(text)}", file=sys.stderr)
        return 2 if bad_input else 1
