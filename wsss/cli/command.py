"""Options and checks that several commands share."""

import argparse
import inspect
from collections.abc import Callable
from functools import partial

from wsss.errors import InputError

TAGS = (
    "CSV (id,labels), JSON or COCO's instances; otherwise DIR/tags.csv, DIR/tags.json, or one "
    "folder per tag"
)


def add_command(commands, name: str, action: Callable, **options) -> argparse.ArgumentParser:
    """Add a command that calls ``action`` with its parsed arguments.

    The paragraphs of the action's docstring are its help: a summary, perhaps more, and an example.
    """
    *text, example = (inspect.getdoc(action) or "\n\n").split("\n\n")  # -OO strips docstrings
    texts = {"help": text[0], "description": " ".join(text), "epilog": example}
    command = commands.add_parser(name, **texts, **options)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)
    return command


def add_inference(command: argparse.ArgumentParser) -> None:
    """Add the options of a segmentation network's inference."""
    factors = "of the photo's size, averaged, such as 0.5,1.0 (1.0)"
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


def refuse_faults(faults: list[str], listed: str) -> None:
    """Raise an InputError with the first fault, if any; ``listed`` says where the others are."""
    if faults:
        more = len(faults) - 1
        raise InputError(faults[0] + (f" (and {more} more, {listed})" if more else ""))
