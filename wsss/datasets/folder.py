"""Your own photos: a folder of them, tags in a file or as folders' names, masks if any."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from wsss.datasets.folder_yaml import read_description
from wsss.datasets.photos import LEAST_SIDE, SUFFIXES, digest_files, fit_mask, photo_size
from wsss.datasets.tags import PhotoNames, Tags, class_names, folder_tags, normal, read_tags, stem
from wsss.datasets.voc import Dataset, short_digest
from wsss.errors import InputError, one_line, reason
from wsss.io.safe_yaml import YAML
from wsss.io.text import UNWRITABLE, read_text

MAKING = "making.json"  # marks a folder of labels that were made of photos
NAME_BYTES = 250  # of an id's last part: with the extension of its maps at most 255, as disks want
TEXTS = (".csv", ".json", ".txt", *YAML)  # tags and lists, which may lie among photos


class Folder(Dataset):
    """Photos (JPEG, PNG, WebP) in a folder and its subfolders, with tags.

    A photo's id is its path inside the folder without extension. Only tagged photos are used for
    training and evaluation. Masks are palette PNGs, ``<id>.png``, of the photo's size, if any.
    Raises InputError for no such folder, no photo in it, or tags that cannot be read.

    Args:
        root: the folder. Links to other folders are not followed; folders of labels (MAKING) and
            masks are passed over.
        tags: files for ``tags.read_tags``; None takes ``tags.csv`` or ``tags.json`` in the folder,
            or else the name of the uppermost folder that a photo lies in.
        classes: names in the order of their numbers from 1; None takes the tags' own, sorted.
        masks: folder of the masks; None takes ``masks`` in the folder.
        splits: name to ids, to a file with one id per line, or to a folder among the photos; None
            takes the files of ``splits/`` in the folder, or draws ``train`` and ``val``.
        val_share: of the tagged photos that is drawn for ``val``, from 0 to below 1. Adding photos
            moves few of the others to another list.
        seed: of that draw.
        leave_out: ids or paths of photos to ignore.
        long_side: pixels; longer photos, and their masks, are read at this size. 0 never resizes.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        tags: Path | str | Sequence[Path | str] | None = None,
        classes: Sequence[str] | None = None,
        masks: Path | str | None = None,
        splits: Mapping[str, Path | str | Sequence[str]] | None = None,
        val_share: float = 0.2,
        seed: int = 0,
        leave_out: Iterable[str] = (),
        long_side: int = 1024,
    ):
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{root}: expected a folder of photos but there is none; give another")
        if not 0 <= val_share < 1:
            raise InputError(f"val_share {val_share}: expected a share from 0 to below 1; fix it")
        if long_side and long_side < LEAST_SIDE:
            wanted = f"expected 0, or {LEAST_SIDE} pixels and more"
            raise InputError(f"long_side {long_side}: {wanted}; change it")
        self.masks = Path(masks) if masks else self.root / "masks"
        self.mask_folder = self.masks.name
        self.seed, self.val_share, self.long_side = seed, val_share, long_side
        self._lists = splits
        self._find_photos(leave_out)
        self.tags_from, found = self._find_tags(tags)
        self._assign(found, classes)

    @classmethod
    def open(cls, path: Path | str, **changes) -> "Folder":
        """A folder, or that which a YAML file describes; ``changes`` are arguments by name."""
        if Path(path).suffix not in YAML:
            return cls(path, **changes)
        given = read_description(path) | changes
        try:
            return cls(given.pop("photos"), **given)
        except InputError as fault:
            text = str(fault)
            raise InputError(text if str(path) in text else f"{path}: {text}") from None
        except OSError as error:  # of a path that is too long
            raise InputError(f"{path}: {reason(error)}; fix its paths") from None

    def _find_photos(self, leave_out):
        """Set ``photos`` (id to path inside), ``unread`` (other files by kind) and ``faults``."""
        found, self.unread = {}, Counter()
        skipped = {self.masks.resolve(), (self.root / "splits").resolve()}
        for folder, inner, names in os.walk(self.root):
            if MAKING in names:
                inner.clear()
                continue
            visible = (name for name in inner if not name.startswith("."))
            inner[:] = [each for each in visible if Path(folder, each).resolve() not in skipped]
            self.unread.update("linked folder" for name in inner if Path(folder, name).is_symlink())
            for name in names:
                path = Path(folder, name).relative_to(self.root)
                kind = path.suffix.lower()
                if name.startswith(".") or kind in TEXTS:
                    continue
                if kind not in SUFFIXES:
                    self.unread[one_line(kind or name)] += 1
                    continue
                if UNWRITABLE.search(str(path)):  # undecodable bytes
                    raise InputError(f"{path}: the name is not in UTF-8; rename the file")
                found.setdefault(stem(path.as_posix()), []).append(path)
        if not found:
            wanted = f"photos ({', '.join(SUFFIXES)})"
            raise InputError(f"{self.root}: expected {wanted} but found none; check the path")
        found = {photo_id: sorted(found[photo_id]) for photo_id in sorted(found)}
        self._names = PhotoNames(found)
        self.faults = []
        for name in sorted(leave_out):
            if photo_id := self._names.find(name):
                found.pop(photo_id, None)  # two names may mean one photo
            else:
                fault = f"leave_out: there is no photo '{name}'; take it off the list"
                self.faults.append(f"{self.root}: {fault}")
        for paths in found.values():
            names = [*map(_spelled, paths)]
            if names[1:]:  # `a.jpg` and `a.png`, or two spellings of a name
                fault = f"have one id, and only {names[0]} is read; rename all but one"
                self.faults.append(f"{self.root}: {' and '.join(names)} {fault}")
        self.photos = {photo_id: paths[0] for photo_id, paths in found.items()}

    def _find_tags(self, given):
        """Where the tags come from, in words, and the tags."""
        if given is None:
            given = [self.root / name for name in ("tags.csv", "tags.json")]
            given = [path for path in given if path.exists()]
            if len(given) > 1:
                raise InputError(f"{given[0]}: there is {given[1].name} too; keep one of them")
            if not given:
                return "the folders' names", folder_tags(self.photos)
        files = [given] if isinstance(given, str | Path) else given
        parts = [read_tags(path) for path in files]
        rows = [row for part in parts for row in part.rows]
        tags = parts[0]._replace(rows=rows) if parts else Tags([])
        return ", ".join(map(str, files)) or "nowhere", tags

    def _assign(self, tags, classes):
        """Set ``classes``, ``_labels`` and ``unknown_tags`` (id to tags that are no classes)."""
        used = sorted({label for _, row in tags.rows for label in row})
        self.classes = class_names(classes or tags.classes or used, where=self.tags_from)
        numbers = {name: number for number, name in enumerate(self.classes, 1)}
        self._labels, self.unknown_tags = {}, {}
        for key, labels in tags.rows:
            meant = self._names.meant(key, loose=tags.loose)
            kept = [each for each in meant if each in self.photos]
            if meant and not kept:  # left out
                continue
            known = sorted({numbers[label] for label in labels if label in numbers})
            unknown = [label for label in labels if label not in numbers]
            if not kept and (".." in PurePosixPath(key).parts or key.startswith("/")):
                fault = "leaves the folder of photos; give paths inside it"
            elif not kept:
                fault = "has tags but there is no such JPEG, PNG or WebP; take its line out"
            elif kept[1:]:
                fault = f"may be {' or '.join(kept)}; name the photo by its path"
            elif kept[0] in self._labels:
                fault = "is listed twice; keep one line"
            else:
                self._labels[kept[0]] = known
                if not unknown:
                    continue
                self.unknown_tags[kept[0]] = unknown
                fault = f"unknown class '{unknown[0]}'; the classes are: {', '.join(self.classes)}"
            self.faults.append(f"{self.tags_from}: {key}: {fault}")

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Name to ids: the given or drawn lists, and ``all`` photos with tags."""
        lists, tagged = self._lists, sorted(self.labelled())
        if lists is None:
            lists = {path.stem: path for path in sorted((self.root / "splits").glob("*.txt"))}
        if "all" in lists:
            fault = "the id list 'all' is always that of all tagged photos; give yours another name"
            raise InputError(f"{self.root}: {fault}")
        if lists:
            found = {name: self._listed(name, given) for name, given in lists.items()}
        else:
            drawn = sorted(tagged, key=self._draw)[: round(self.val_share * len(tagged))]
            found = {"train": sorted(set(tagged) - set(drawn)), "val": sorted(drawn)}
        return found | {"all": tagged}

    def _draw(self, photo_id):
        """A hash of the id, so that few photos move when others are added."""
        return hashlib.blake2b(f"{self.seed} {photo_id}".encode(), digest_size=8).digest()

    def _listed(self, name, given):
        """The ids of a list given in any form, without the photos left out."""
        if isinstance(given, str):  # a folder among the photos
            inside = normal(given).rstrip("/") + "/"
            return sorted(each for each in self.labelled() if each.startswith(inside))
        where = f"split '{name}'"
        if isinstance(given, Path):
            where, given = given, read_text(given, "an id list").splitlines()
        ids = {}  # as an ordered set
        for line in filter(None, map(str.strip, map(str, given))):
            photo_id = self._names.find(line)
            if photo_id is None:
                fault = "is not a photo of this folder; take it off the list"
            elif photo_id not in self.photos:  # left out
                continue
            elif not self._labels.get(photo_id):
                fault = "has no tags; add them or take it off the list"
            elif photo_id in ids:
                fault = "is listed twice; keep one line"
            else:
                ids[photo_id] = True
                continue
            raise InputError(f"{where}: {line} {fault}")
        return list(ids)

    def ids(self, split: str) -> list[str]:
        """The ids of ``train``, ``val``, ``all`` (with tags), or of a given list."""
        if split not in self.splits:
            have = ", ".join(self.splits)
            raise InputError(f"{self.root}: no id list '{split}'; the lists here are: {have}")
        if not self.splits[split]:
            fix = f"tag more photos (tags are from {self.tags_from})"
            raise InputError(f"{self.root}: the id list '{split}' is empty; {fix}")
        return list(self.splits[split])

    def image_path(self, photo_id: str) -> Path:
        return self.root / self.photos.get(photo_id, f"{photo_id}.jpg")

    def mask_path(self, photo_id: str) -> Path:
        path = self.masks / f"{photo_id}.png"
        spelt = self.masks / self.photos.get(photo_id, path).with_suffix(".png")  # as its photo is
        return spelt if spelt != path and spelt.exists() else path

    def mask(self, photo_id: str) -> np.ndarray:
        size = photo_size(self.image_path(photo_id), long_side=self.long_side)
        return fit_mask(super().mask(photo_id), size, name=self.mask_path(photo_id))

    def masked(self, ids: Iterable[str]) -> list[str]:
        return [photo_id for photo_id in ids if os.path.exists(self.mask_path(photo_id))]

    def labels(self, photo_id: str) -> list[int]:
        if labels := self._labels.get(photo_id):
            return labels
        raise InputError(f"{self.tags_from}: no tags for photo {photo_id}; add them")

    def digest(self) -> str:
        """Of classes, tags, id lists, ``long_side`` and tagged photos; and of their masks."""
        tagged = self.splits["all"]
        files = digest_files(self.root, map(self.image_path, tagged))
        tags = [(photo_id, self._labels[photo_id]) for photo_id in tagged]
        known = [type(self).__name__, self.classes, self.splits, self.long_side, tags, files]
        masks = digest_files(self.masks, map(self.mask_path, tagged))
        return f"{short_digest(known)}-{short_digest(masks)}"

    def check(self, splits: Collection[str], **options) -> list[str]:
        """As every dataset's; with the faults of names and tags, and of all masks that exist."""
        options["masks"] = splits
        fault = f"the name is too long for its maps ({NAME_BYTES} bytes); shorten it"
        too_long = [
            f"{self.root / path}: {fault}"
            for photo_id, path in self.photos.items()
            if len(os.fsencode(PurePosixPath(photo_id).name)) > NAME_BYTES
        ]
        return [*self.faults, *too_long, *super().check(splits, **options)]


def _spelled(path):
    name = str(path)
    return name if name == normal(name) else name.encode("ascii", "backslashreplace").decode()
