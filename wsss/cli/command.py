"""Options and checks that several commands share."""

import argparse
import inspect
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wsss.errors import InputError
from wsss.lab import paths

TAGS = "CSV (id,labels), JSON, COCO's instances; default: DIR/tags.csv, .json, or a folder per tag"
RUN = "its folder, the first characters of its id, its experiment, or latest"  # names a run
NETWORK = f"file, completed stage ({RUN}), or models:/NAME"


def add_command(commands, name: str, action: Callable, **options) -> argparse.ArgumentParser:
    """Add a command that calls ``action`` with its parsed arguments.

    The paragraphs of the action's docstring are its help: a summary, perhaps more, and an example;
    ``options`` of the parser take precedence.
    """
    *text, example = (inspect.getdoc(action) or "\n\n").split("\n\n")  # -OO strips docstrings
    kind, _, lines = " ".join(example.split()).partition(": ")
    width = shutil.get_terminal_size().columns - 2  # argparse's own
    texts = {"help": text[0], "description": textwrap.fill(" ".join(text), width)}
    texts["epilog"] = "\n  ".join([f"{kind}:", *lines.split("; ")])
    raw = argparse.RawDescriptionHelpFormatter  # lines of examples can be pasted
    command = commands.add_parser(name, formatter_class=raw, **texts | options)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)
    return command


def say_next(*commands: str) -> None:
    """Print what to give next, a command per line; first of all how to activate the environment
    that this command is of, where the shell would not find ``wsss``.
    """
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("wsss") is None and activate.exists():
        commands = f"source {shlex.quote(paths.shown(activate))}", *commands
    print("next: " + "\n      ".join(commands))


def add_inference(command: argparse.ArgumentParser) -> None:
    """Add the options of a segmentation network's inference."""
    factors = "of the photo's size, averaged, such as 0.5,1.0; default: 1.0"
    command.add_argument("--scales", type=scales, metavar="FACTORS", help=factors)
    command.add_argument("--flip", action="store_true", help="average with the mirrored photo")
    command.add_argument("--crf", action="store_true", help="dense CRF on the result")


def count(text: str, *, least: int = 0) -> int:
    """Parse a whole number from ``least``."""
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} but got {text!r}")
    return int(text)


positive = partial(count, least=1)


def scales(text: str) -> tuple[float, ...]:
    """Parse factors such as ``0.5,1.0``."""
    try:
        factors = tuple(float(factor) for factor in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0 < factor < 10 for factor in factors):
        raise argparse.ArgumentTypeError(f"expected factors such as 0.5,1.0 but got {text!r}")
    return factors


def open_photos(photos: Path, **given):
    """A folder or a YAML file as a ``Folder``, with those of its arguments that are not None."""
    from wsss.datasets import Folder  # slow to import

    given = {name: value for name, value in given.items() if value is not None}
    return Folder.open(photos, **given)


def refuse_faults(faults: list[str], listed: str) -> None:
    """Raise an InputError with the first fault, if any; ``listed`` says where the others are."""
    if faults:
        more = len(faults) - 1
        raise InputError(faults[0] + (f" (and {more} more, {listed})" if more else ""))
