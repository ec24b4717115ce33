"""Untrusted YAML: plain values only, read in bounded memory and time.

Numbers are read as people write them, not as YAML 1.1 has them: ``1e-3`` is a number; ``010``,
``1:30``, ``1_000``, ``0x1F`` and dates, which YAML 1.1 would turn into other numbers, stay text.
"""

import re
from collections import Counter
from itertools import chain
from pathlib import Path

import yaml

from wsss.errors import InputError, reason
from wsss.io.text import check_characters, read_text

YAML = (".yaml", ".yml")  # suffixes
MOST_BYTES = 2**20  # of a file; an experiment has some 3,000
MOST_VALUES = 200_000  # of a file, each counted as often as its anchor is used

WHOLE = r"[-+]?(?:0|[1-9]\d*)"
NUMBERS = {
    "int": rf"{WHOLE}$",
    "float": rf"(?:{WHOLE}\.\d*|[-+]?\.\d+)(?:[eE][-+]?\d+)?$|{WHOLE}[eE][-+]?\d+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$",
}
WORDS = ("bool", "merge", "null", "value")  # kinds that are as in YAML 1.1
TAG = "tag:yaml.org,2002:"
KINDS = {  # a plain value's first character to the (tag, pattern) of what it may be
    first: [(tag, pattern) for tag, pattern in pairs if tag.removeprefix(TAG) in WORDS]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PATTERNS = [(TAG + kind, re.compile(pattern)) for kind, pattern in NUMBERS.items()]
KINDS |= {first: KINDS.get(first, []) + PATTERNS for first in "-+.0123456789"}


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = KINDS


class Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = KINDS


def read(path: Path | str, what: str) -> object:
    """``parse`` a file; arguments and errors as for ``read_text`` too."""
    return parse(read_text(path, f"{what} in YAML", most=MOST_BYTES), path)


def dump(content: object) -> str:
    """Plain values as a text that ``parse`` reads back, keys in their order."""
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def parse(text: str, where: Path | str) -> object:
    """The plain values (dicts, lists, texts, numbers) in a text of YAML from ``where``, None if
    empty. Raises InputError for what is not YAML, tags of anything but plain values, a key listed
    twice, an anchor inside itself, more than ``MOST_VALUES``, or what ``check_characters`` refuses.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, where)
        return loader.construct_document(node)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: the YAML is nested too deeply; flatten it") from None
    except yaml.YAMLError as error:
        summary = " ".join(str(error).split())
        raise InputError(f"{where}: not readable as YAML ({summary}); fix it") from None
    except Exception as error:  # its parsers of explicit tags raise many kinds
        fault = f"a value is not what its tag says ({reason(error)})"
        raise InputError(f"{where}: not readable as YAML, {fault}; put it in quotes") from None


def _count(node, known, where):
    """Count the values of a node, each as often as it is used, since ten lines of lists that refer
    to each other can expand to a billion; ``known`` has counts, None for nodes around this one.
    """
    if isinstance(node, yaml.ScalarNode):
        check_characters(node.value, where)
        return 1
    place = id(node)
    if place in known:
        if known[place] is None:
            raise InputError(f"{where}: an anchor in the YAML contains itself; write it out")
        return known[place]
    known[place] = None
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in parts if isinstance(key, yaml.ScalarNode)]
        for (_, key), count in Counter(keys).items():
            if count > 1:
                raise InputError(f"{where}: '{key}' is listed twice; keep one of them")
        parts = chain(*parts)
    known[place] = 1 + sum(_count(part, known, where) for part in parts)
    if known[place] > MOST_VALUES:
        fault = f"the YAML expands to more than {MOST_VALUES:,} values"
        raise InputError(f"{where}: {fault}; use fewer anchors")
    return known[place]
