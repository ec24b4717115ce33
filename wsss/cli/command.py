"""What commands have in common."""

import argparse


def add_command(commands, name, action, **texts):
    """Add a command with what all of them have."""
    command = commands.add_parser(name, **texts)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(action=action)
    return command


def count(text):
    """An option's value that is a whole number from 0."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 but got {text!r}")
    return int(text)


def positive(text):
    """An option's value that is a whole number from 1."""
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 but got {text!r}")
    return int(text)


def scales(text):
    """An option's value such as ``0.5,1.0`` as a tuple of factors."""
    try:
        factors = tuple(float(factor) for factor in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0 < factor < 10 for factor in factors):
        raise argparse.ArgumentTypeError(f"expected factors such as 0.5,1.0 but got {text!r}")
    return factors


def formats(known):
    """What reads an option's value such as ``coco,labelme`` as a tuple of known names."""

    def read(text):
        names = tuple(filter(None, text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"expected some of {', '.join(known)} but got {name!r}"
                )
        return names

    return read
