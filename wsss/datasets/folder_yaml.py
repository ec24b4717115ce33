"""A YAML file that describes a dataset of own photos."""

from pathlib import Path
from reprlib import repr as shown  # which shortens long values
from typing import Any

from wsss.errors import InputError
from wsss.io import safe_yaml

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
    """The arguments of ``Folder``, ``photos`` for its root; paths start from the file's folder.
    Raises InputError for an unreadable file, an unknown key, or a value of another type.
    """
    path = Path(path)
    given = safe_yaml.read(path, "a description of photos")
    if not isinstance(given, dict) or "photos" not in given:
        raise InputError(f"{path}: expected 'photos:' and a folder; see docs/own-photos.md")
    for name, value in given.items():
        if name not in KEYS:
            raise InputError(f"{path}: unknown key '{name}'; expected: {', '.join(KEYS)}")
        _check(path, name, value, KEYS[name])
    lists = given.get("splits", {})
    _check(path, "splits", list(lists), list)  # their names
    for name, value in lists.items():
        _check(path, f"splits.{name}", value, str | list)
        if isinstance(value, str) and value.endswith(".txt"):
            lists[name] = path.parent / value
    for name in given.keys() & {"photos", "tags", "masks"}:
        value = given[name]
        several = isinstance(value, list)
        given[name] = [path.parent / each for each in value] if several else path.parent / value
    return given


def _check(path, name, value, kind):
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{path}: {name} cannot be {shown(value)}; see docs/own-photos.md")
    for each in value if isinstance(value, list) else ():
        if not isinstance(each, str):  # `no` and `007` are no texts to YAML
            fault = f"expected texts in {name} but YAML reads {shown(each)} there"
            raise InputError(f"{path}: {fault}; put it in quotes")
