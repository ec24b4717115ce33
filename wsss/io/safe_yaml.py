"""YAML that people write, read with care: plain values alone, in bounded memory and time."""

import yaml

from wsss.errors import InputError, one_line, reason
from wsss.io.text import read_text

MOST_BYTES = 2**20  # of a file; an experiment has some 3,000
MOST_VALUES = 200_000  # of a file, each as often as its anchor is named


def read(path, what):
    """The plain values (dicts, lists, texts, numbers, dates) in a YAML file.

    Args:
        path: the file.
        what: is expected in it, for messages, such as ``an experiment``.

    Raises:
        InputError: missing, not UTF-8, larger than a mebibyte, not YAML, or as ``parse`` has it.
    """
    return parse(read_text(path, f"{what} in YAML", most=MOST_BYTES), path)


def parse(text, where):
    """The plain values in a text of YAML; an empty text gives None.

    Anchors may be named any number of times, but what they stand for is counted each time: ten
    lines of lists of one another can stand for a billion values.

    Args:
        where: the text is from, for messages.

    Raises:
        InputError: not YAML, tags of anything but plain values, a key listed twice, an anchor
            within itself, or more values than ``MOST_VALUES``.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: the YAML is nested too deep; mend it") from None
    except yaml.YAMLError as error:
        told = one_line(" ".join(str(error).split()))
        raise InputError(f"{where}: not readable as YAML ({told}); mend it") from None
    except Exception as error:  # what its makers of dates and numbers raise is of many kinds
        raise InputError(
            f"{where}: not readable as YAML, a value is not what it looks like "
            f"({reason(error)}); put it in quotes"
        ) from None


def _count(node, known, where):
    """How many values a node stands for; ``known`` holds those of nodes seen, None of those that
    this one lies in.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    place = id(node)
    if place in known:
        if known[place] is None:
            raise InputError(f"{where}: an anchor in the YAML holds itself; write it out")
        return known[place]
    known[place] = None
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{where}: '{twice[1]}' is listed twice; keep one of them")
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    known[place] = 1 + sum(_count(part, known, where) for part in parts)
    if known[place] > MOST_VALUES:
        raise InputError(
            f"{where}: the YAML stands for more than {MOST_VALUES:,} values; name fewer anchors"
        )
    return known[place]
