"""Tags of photos as people write them: CSV, JSON, COCO's instances, folders' names; class names."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wsss.datasets.photos import SUFFIXES
from wsss.errors import InputError, one_line, reason
from wsss.io.artifacts import IGNORE
from wsss.io.text import check_characters, read_text

MOST_BYTES = 2**30  # of a file; COCO's instances of 2017 have about 450 MB
RESERVED = {  # for classes: other tools' names for the values 0 and 255, and the tables' columns
    *("background", "_background_", "__ignore__", "mean", "network", "data", "spread"),
    *("95 % interval", "mark", "source", "runs"),
}


class Tags(NamedTuple):
    """The contents of a file of tags."""

    rows: list[tuple[str, list[str]]]  # photo's path or id, its labels; a photo may occur twice
    classes: list[str] | None = None  # in the file's own order (COCO's categories)
    loose: bool = False  # photos are named without their folder, as in COCO


def read_tags(path: Path | str) -> Tags:
    """Tags from a file: CSV with the header ``id,labels`` (labels separated by ``;``); JSON as
    ``{id: [labels]}`` or ``[{"id": ..., "labels": [...]}]``; or the categories of COCO's instances.
    Raises InputError for a file that is missing, unreadable or of another form, or what
    ``check_characters`` refuses.
    """
    path = Path(path)
    form = path.suffix.lower()
    if form not in (".csv", ".json"):
        raise InputError(f"{path}: expected a .csv or .json with tags; see docs/own-photos.md")
    text = read_text(path, "tags", most=MOST_BYTES)
    try:
        if form == ".csv":
            return _from_csv(path, csv.reader(io.StringIO(text, newline="")))
        tags = _from_json(path, json.loads(text, object_pairs_hook=_without_outlines))
        for name, labels in [*tags.rows, ("", tags.classes or [])]:
            check_characters("\n".join([name, *labels]), path)
        return tags
    except InputError:
        raise
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{path}: not readable as tags ({reason(error)}); fix the file") from None


def folder_tags(ids: Iterable[str]) -> Tags:
    """One folder per tag: photos get the name of the uppermost folder that they lie in."""
    return Tags([(each, [PurePosixPath(each).parts[0]]) for each in ids if "/" in each])


def normal(text: str) -> str:
    """A name in one spelling: composed characters, ``/`` between folders."""
    return unicodedata.normalize("NFC", text).replace("\\", "/")


def stem(name: str) -> str:
    """A photo's name in one spelling, without its extension, if any: the id of its path."""
    name = normal(name)
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


class PhotoNames:
    """Photos by what people call them: by path, in any spelling, with or without an extension."""

    def __init__(self, found: Mapping[str, Iterable[Path]]) -> None:  # id to paths
        self._ids, self._by_name = {photo_id: photo_id for photo_id in found}, {}
        for photo_id, paths in found.items():
            # a path comes before an id: `a.jpg` is also the id of `a.jpg.jpg`
            self._ids |= {normal(path.as_posix()): photo_id for path in paths}
            self._by_name.setdefault(PurePosixPath(photo_id).name, []).append(photo_id)

    def find(self, name: str) -> str | None:
        """The id of a photo."""
        return self._ids.get(normal(name)) or self._ids.get(stem(name))

    def meant(self, name: str, *, loose: bool) -> list[str]:
        """The ids that a name may mean; a ``loose`` one may lack folders, or have more of them."""
        if (found := self.find(name)) or not loose:
            return [found] if found else []
        path = f"/{stem(name)}"
        alike = self._by_name.get(PurePosixPath(path).name, ())
        return [each for each in alike if path.endswith(f"/{each}") or f"/{each}".endswith(path)]


def class_names(given: Iterable[object], *, where: object, least: int = 0) -> tuple[str, ...]:
    """Names of classes in one spelling, in the order of their numbers from 1; InputError for fewer
    than ``least`` or more than 254, for one twice, unprintable or reserved.
    """
    names = tuple(normal(str(name)).strip() for name in given)
    count = len(names)
    if not least <= count < IGNORE or len(set(names)) < count:
        wanted = "1 to 254 class names, each once,"
        raise InputError(f"{where}: expected {wanted} but found {count}; fix the list")
    for name in names:
        if not name or one_line(name) != name or name.casefold() in RESERVED:
            fix = "rename it, or take it out (background is always number 0)"
            raise InputError(f"{where}: {name!r} cannot be the name of a class; {fix}")
    return names


def read_classes(path: Path | str) -> tuple[str, ...]:
    """The ``class_names`` of a text file, one per line; InputError if it cannot be read."""
    lines = read_text(path, "class names").splitlines()
    return class_names((line for line in lines if line.strip()), where=path, least=1)


def expect_classes(folder: Path, classes: Sequence[str]) -> None:
    """InputError if a ``classes.txt`` beside or above label maps lists other classes, in order."""
    for path in (folder / "classes.txt", folder.parent / "classes.txt"):
        if path.exists() and (found := read_classes(path)) != tuple(classes):
            what = f"label maps of {', '.join(found)}, but the dataset has {', '.join(classes)}"
            fix = "give it the classes of this file, in their order (--classes FILE)"
            raise InputError(f"{path}: {what}; {fix}")


def _from_csv(path, lines):
    header = next(lines, [])
    if [name.strip() for name in header] != ["id", "labels"]:
        found = ",".join(header) or "an empty file"
        raise InputError(f"{path}: expected the header 'id,labels' but found {found!r}; fix it")
    rows = []
    for line in filter(None, lines):
        if len(line) != 2:
            wanted = f"an id and labels separated by ';' but found {len(line)} columns"
            where = f"{path}, line {lines.line_num}"
            raise InputError(f"{where}: expected {wanted}; quote names with a comma")
        rows.append((normal(line[0].strip()), _clean(line[1].split(";"))))
    return Tags(rows)


def _from_json(path, content):
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return _from_coco(path, content)
    pairs = [(None, None)]
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list) and all(
        isinstance(row, dict) and row.keys() == {"id", "labels"} for row in content
    ):
        pairs = [(row["id"], row["labels"]) for row in content]
    rows = []
    for name, labels in pairs:
        texts = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        if not (isinstance(name, str) and texts):
            raise InputError(
                f'{path}: expected {{"photo": ["label", ...]}}, [{{"id": "photo", "labels": '
                f"[...]}}] or COCO's instances; {name!r} is none of these; fix it"
            )
        rows.append((normal(name.strip()), _clean(labels)))
    return Tags(rows)


def _from_coco(path, content):
    try:
        categories = sorted(content["categories"], key=lambda entry: entry["id"])
        names = {entry["id"]: normal(entry["name"]).strip() for entry in categories}
        found = {image["id"]: (normal(image["file_name"]), {}) for image in content["images"]}
        for entry in content["annotations"]:
            found[entry["image_id"]][1][names[entry["category_id"]]] = True
    except (KeyError, TypeError, AttributeError) as error:
        met = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: expected COCO's instances but met {met}; fix its ids") from None
    rows = [(name, list(labels)) for name, labels in found.values()]
    return Tags(rows, classes=list(names.values()), loose=True)


def _without_outlines(pairs):
    """A JSON object without outlines, most of a file of COCO's instances."""
    content = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} is listed twice")
        content[name] = None if name in ("segmentation", "bbox") else value
    return content


def _clean(labels):
    return [normal(label.strip()) for label in labels if label.strip()]
