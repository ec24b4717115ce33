"""Your own photos: a folder of them, tags in a file or as folders' names, masks if there are."""

import hashlib
import os
from functools import cached_property
from pathlib import Path, PurePosixPath

from wsss.datasets.folder_yaml import read_description
from wsss.datasets.photos import LEAST_SIDE, SUFFIXES, fit_mask, photo_size, read_photo
from wsss.datasets.tags import Tags, folder_tags, label_vector, normal, read_tags
from wsss.datasets.voc import read_mask
from wsss.errors import InputError, one_line, reason
from wsss.io.text import read_text


class Folder:
    """Photos (JPEG, PNG, WebP) in a folder and the folders in it, with tags.

    A photo's id is its path inside the folder without extension. Photos without tags are neither
    trained nor scored on. Masks are looked for in a folder of palette PNGs, ``<id>.png``, of the
    photo's size; a photo need not have one.

    Args:
        root: the folder. Links to other folders are not followed.
        tags: a file that ``tags.read_tags`` reads, or a list of them, which may be empty; None
            takes ``tags.csv`` or ``tags.json`` in the folder, or else the name of the uppermost
            folder that a photo lies in.
        classes: names in the order of their numbers from 1; None takes the tags' own, sorted.
        masks: folder with masks; None takes ``masks`` in the folder.
        splits: name to a list of ids, a file with an id a line, or a folder among the photos; None
            takes the files of ``splits/`` in the folder, or draws ``train`` and ``val``.
        val_share: of the tagged photos that is drawn for ``val``, from 0 to below 1. A photo keeps
            its place when others are added, but for a few.
        seed: of that draw.
        leave_out: ids of photos, or their paths, that are as if they were not there.
        long_side: pixels; longer photos, and their masks, are read at this size. 0 reads all as
            they are.

    Raises:
        InputError: no such folder, no photo in it, or tags that cannot be read.
    """

    def __init__(
        self,
        root,
        *,
        tags=None,
        classes=None,
        masks=None,
        splits=None,
        val_share=0.2,
        seed=0,
        leave_out=(),
        long_side=1024,
    ):
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(
                f"{root}: expected a folder of photos but there is none; check the path"
            )
        if not 0 <= val_share < 1:
            raise InputError(
                f"val_share {val_share}: expected a share from 0 to below 1; change it"
            )
        if long_side and long_side < LEAST_SIDE:
            raise InputError(
                f"long_side {long_side}: expected 0, or {LEAST_SIDE} pixels and more; change it"
            )
        self.masks = Path(masks) if masks else self.root / "masks"
        self.mask_folder = self.masks.name
        self.seed, self.val_share, self.long_side = seed, val_share, long_side
        self.leave_out = frozenset(_stem(normal(name)) for name in leave_out)
        self._lists = splits
        self.tags_from, found = self._find_tags(tags)
        self._assign(found, classes)

    @classmethod
    def described(cls, path, **changes):
        """The dataset that a YAML file describes: the arguments by their names, ``photos`` for the
        root; relative paths are meant from the file's folder. ``changes`` go over them.
        """
        given = read_description(path)
        try:
            return cls(given.pop("photos"), **given | changes)
        except InputError as fault:
            said = str(fault)
            raise InputError(said if str(path) in said else f"{path}: {said}") from None
        except OSError as error:  # of a path that is too long
            raise InputError(f"{path}: {reason(error)}; mend its paths") from None

    @cached_property
    def photos(self):
        """Id to path inside the folder, in the order of ids; where two photos have one id, the
        first.
        """
        return {id: names[0] for id, names in self._scanned.items()}

    @cached_property
    def _scanned(self):
        found = {}
        beside = {self.masks.resolve(), (self.root / "splits").resolve()}
        for folder, inner, names in os.walk(self.root):
            inner[:] = [
                name
                for name in inner
                if not name.startswith(".") and (Path(folder) / name).resolve() not in beside
            ]
            for name in names:
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    path = (Path(folder) / name).relative_to(self.root)
                    _check_name(path)
                    id = _stem(normal(path.as_posix()))
                    if id not in self.leave_out:
                        found.setdefault(id, []).append(path)
        if not found:
            raise InputError(
                f"{self.root}: expected photos ({', '.join(SUFFIXES)}) but found none; check the "
                "path"
            )
        return {id: sorted(found[id]) for id in sorted(found)}

    def _find_tags(self, given):
        """``(where they are from, Tags)``."""
        files = [given] if isinstance(given, str | Path) else given
        if files is None:
            files = [self.root / name for name in ("tags.csv", "tags.json")]
            files = [path for path in files if path.exists()]
            if len(files) > 1:
                raise InputError(f"{files[0]}: there is {files[1].name} too; keep one of them")
            if not files:
                return "the folders' names", folder_tags(self.photos)
        parts = [read_tags(path) for path in files]
        classes, loose = (parts[0].classes, parts[0].loose) if parts else (None, False)
        rows = [row for part in parts for row in part.rows]
        return ", ".join(map(str, files)) or "nowhere", Tags(rows, classes, loose)

    def _assign(self, tags, classes):
        """Tags to photos: what fits into ``_labels``, what does not into ``tag_faults``."""
        named = classes or tags.classes or sorted({label for _, row in tags.rows for label in row})
        self.classes = tuple(normal(str(name)) for name in named)
        for name in self.classes:
            if not name.strip() or one_line(name) != name:
                raise InputError(
                    f"{self.tags_from}: {name!r} cannot be the name of a class; write it in "
                    "letters that can be seen"
                )
        if len(self.classes) > 254 or len(set(self.classes)) < len(self.classes):
            raise InputError(
                f"{self.tags_from}: expected at most 254 classes, each once, but found "
                f"{len(self.classes)}; mend the list"
            )
        numbers = {name: number for number, name in enumerate(self.classes, 1)}
        places = {PurePosixPath(id).name: id for id in self.photos} if tags.loose else {}
        self._labels, self.tag_faults = {}, []
        for key, labels in tags.rows:
            id = self._id(key) or places.get(PurePosixPath(_stem(key)).name)
            unknown = [label for label in labels if label not in numbers]
            fault = None
            if self._left_out(key):
                continue
            if id is None and (".." in PurePosixPath(key).parts or key.startswith("/")):
                fault = "leaves the folder of photos; give paths inside it"
            elif id is None:
                fault = "has tags but there is no such JPEG, PNG or WebP; take its line out"
            elif id in self._labels:
                fault = "is listed twice; keep one line"
            elif unknown:
                fault = f"'{unknown[0]}' is no class; the classes are: {', '.join(self.classes)}"
            if fault:
                self.tag_faults.append(f"{self.tags_from}: {key}: {fault}")
            else:
                self._labels[id] = sorted({numbers[label] for label in labels})

    def _id(self, name):
        """The id of a photo named with or without its extension, or None."""
        name = normal(name)
        return next((id for id in (name, _stem(name)) if id in self.photos), None)

    def _left_out(self, name):
        return _stem(normal(name)) in self.leave_out

    @cached_property
    def _tagged(self):
        return sorted(id for id, labels in self._labels.items() if labels)

    @cached_property
    def _splits(self):
        """Name to ids: the given lists or drawn ones, and ``all`` photos with tags."""
        lists = self._lists
        if lists is None:
            lists = {path.stem: path for path in sorted((self.root / "splits").glob("*.txt"))}
        if lists:
            return {name: self._listed(name, given) for name, given in lists.items()} | {
                "all": self._tagged
            }
        # a photo's place hangs on its own name, so that few move when others come
        drawn = sorted(self._tagged, key=self._draw)
        drawn = set(drawn[: round(self.val_share * len(drawn))])
        return {
            "train": [id for id in self._tagged if id not in drawn],
            "val": [id for id in self._tagged if id in drawn],
            "all": self._tagged,
        }

    def _draw(self, id):
        return hashlib.blake2b(f"{self.seed} {id}".encode(), digest_size=8).digest()

    def _listed(self, name, given):
        """The ids of a list that is given in any of its forms; photos left out are not on it."""
        if isinstance(given, str):  # a folder among the photos
            inside = normal(given).rstrip("/") + "/"
            return [id for id in self._tagged if id.startswith(inside)]
        where = f"split '{name}'"
        if isinstance(given, Path):
            where = str(given)
            given = read_text(given, "an id list").splitlines()
        ids = {}
        for line in filter(None, map(str.strip, map(str, given))):
            if self._left_out(line):
                continue
            id = self._id(line)
            fault = None
            if id is None:
                fault = "is no photo here; take it off the list"
            elif not self._labels.get(id):
                fault = "has no tags; add them or take it off the list"
            elif id in ids:
                fault = "is listed twice; keep one line"
            if fault:
                raise InputError(f"{where}: {line} {fault}")
            ids[id] = True
        return list(ids)

    def ids(self, split):
        """The ids of ``train``, ``val``, ``all`` (with tags), or of a given list."""
        if split not in self._splits:
            raise InputError(
                f"{self.root}: no id list '{split}'; the lists here are: {', '.join(self._splits)}"
            )
        if not self._splits[split]:
            raise InputError(
                f"{self.root}: the id list '{split}' is empty; tag more photos (tags are from "
                f"{self.tags_from})"
            )
        return list(self._splits[split])

    def splits(self):
        """The names of the id lists that are not empty."""
        return [name for name, ids in self._splits.items() if ids]

    def image_path(self, id):
        return self.root / self.photos.get(id, f"{id}.jpg")

    def mask_path(self, id):
        return self.masks / f"{id}.png"

    def image(self, id):
        """The photo as uint8 RGB (H, W, 3), upright, no longer than ``long_side``."""
        return read_photo(self.image_path(id), long_side=self.long_side)

    def mask(self, id):
        """The mask as uint8 (H, W) of what ``image`` gives: 0 background, 1.. classes, 255
        ignored.
        """
        mask = read_mask(self.mask_path(id), num_classes=len(self.classes))
        size = photo_size(self.image_path(id), long_side=self.long_side)
        return fit_mask(mask, size, self.mask_path(id))

    def masked(self, ids):
        """Those of some ids whose photos have a mask, in the same order."""
        return [id for id in ids if self.mask_path(id).exists()]

    def labels(self, id):
        """The classes that the photo is tagged with, as sorted numbers from 1."""
        labels = self._labels.get(id)
        if not labels:
            raise InputError(f"{self.tags_from}: no tags for photo {id}; add them")
        return labels

    def labelled(self):
        """The ids of the photos that have tags, as a set."""
        return set(self._tagged)

    def label_vector(self, id):
        """The tags as float32 of shape (classes,), 1 where the class is present."""
        return label_vector(self.labels(id), len(self.classes))

    def digest(self):
        """A short digest of classes, tags, id lists, sizes read at, and each file's name and size.

        Contents of photos and masks are not read: a changed file of the same size goes unseen.
        """
        state = hashlib.blake2b(digest_size=8)
        state.update(repr((self.classes, self._splits, self.long_side)).encode())
        for id, path in self.photos.items():
            state.update(f"{path} {self._labels.get(id)}".encode())
            for file in (self.root / path, self.mask_path(id)):
                state.update(f" {file.stat().st_size if file.exists() else None}\n".encode())
        return state.hexdigest()

    def check(self, splits, *, masks=(), progress=iter):
        """Every fault of the tags, and of the photos in some id lists and their masks, as lines of
        text; an empty list is a sound dataset.

        Args:
            splits: names of id lists whose photos must be readable.
            masks: not looked at: any photo may be without a mask, and those there are must be
                sound.
            progress: wraps the iteration over ids, to show it.
        """
        faults = [
            f"{self.root}: {' and '.join(map(str, paths))} have one id; rename all but one"
            for paths in self._scanned.values()
            if len(paths) > 1
        ]
        faults += self.tag_faults
        for id in progress(sorted({id for split in splits for id in self.ids(split)})):
            try:
                self.image(id)
                if self.mask_path(id).exists():
                    self.mask(id)
            except InputError as fault:
                faults.append(str(fault))
        return faults


def _check_name(path):
    """Refuse a file whose name is not of characters, as file systems allow."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not in UTF-8; rename the file") from None


def _stem(name):
    """A photo's name without its extension, if it has one."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
