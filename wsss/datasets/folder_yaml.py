"""A YAML file that describes a dataset of own photos."""

from pathlib import Path
from reprlib import repr as shown  # which shortens long values
from typing import Any

from wsss.errors import InputError
from wsss.io import safe_yaml

YAML = (".yaml", ".yml")
KEYS = {  # with their types
    "photos": str,
    "tags": str | list,
    "classes": list,
    "masks": str,
    "splits": dict,
    "val_share": float | int,
    "seed": int,
    "leave_out": list,
    "long_side": int,
}


def read_description(path: Path | str) -> dict[str, Any]:
    """The arguments of ``Folder`` by name, ``photos`` for its root; paths start from the file's
    folder.

    Raises:
        InputError: not readable, an unknown key, or a value of another type.
    """
    path = Path(path)
    given = safe_yaml.read(path, "a description of photos")
    if not isinstance(given, dict) or "photos" not in given:
        raise InputError(f"{path}: expected 'photos:' and a folder; see docs/own-photos.md")
    for name, value in given.items():
        if name not in KEYS:
            raise InputError(f"{path}: unknown key '{name}'; expected: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[name]) or isinstance(value, bool):
            raise InputError(f"{path}: {name} cannot be {shown(value)}; see docs/own-photos.md")
    lists = given.get("splits", {})
    for name, value in lists.items():
        if not isinstance(value, str | list):
            fault = f"splits.{name} cannot be {shown(value)}; give ids, a file or a folder"
            raise InputError(f"{path}: {fault}")
        if isinstance(value, str) and value.endswith(".txt"):
            lists[name] = path.parent / value
    texts = {"splits": list(lists)} | {f"splits.{name}": ids for name, ids in lists.items()}
    for name, values in (given | texts).items():  # `no` and `007` are no texts to YAML
        for value in values if isinstance(values, list) else ():
            if not isinstance(value, str):
                fault = f"expected texts in {name} but YAML reads {shown(value)} there"
                raise InputError(f"{path}: {fault}; put it in quotes")
    for name in given.keys() & {"photos", "tags", "masks"}:
        value = given[name]
        several = isinstance(value, list)
        given[name] = [path.parent / each for each in value] if several else path.parent / value
    return given
