"""A small copy of a devkit: the same photos, labels and masks with fewer pixels."""

from pathlib import Path

from PIL import Image

from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io import atomic
from wsss.io.artifacts import save_labels
from wsss.runtime.progress import progress


def shrink(source, target, *, long_side):
    """Copy a devkit with its photos no longer than ``long_side`` pixels.

    Half the side is a quarter of the work in every stage. Scores of a small copy belong to it
    alone. Photos are resampled with anti-aliasing and kept at JPEG quality 95, masks take the
    nearest pixel, ignored borders included; image labels become an ``image_labels.csv``. Photos
    that are there already are left alone, and id lists come last, so that a copy cut short goes on
    and is never taken for a whole one.

    Args:
        source: a devkit folder.
        target: the folder to write; not the source.
        long_side: pixels, from 32 up; smaller photos keep their size.

    Returns:
        The copy as a ``Devkit``.

    Raises:
        InputError: a photo, mask or label is missing or broken; the target is the source, or a copy
            of another size;
            ``long_side`` is below 32; there is no id list.
    """
    kit = Devkit(source)
    target = Path(target)
    if long_side < 32:
        raise InputError(f"long side {long_side}: expected at least 32 pixels; name more")
    if target.resolve() in (kit.root.resolve(), Path(source).resolve()):
        raise InputError(f"{target}: this is the devkit to copy from; name another folder")
    splits = sorted((kit.root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not splits:
        raise InputError(f"{kit.root}: no id list in ImageSets/Segmentation; add train.txt")
    ids = sorted({id for path in splits for id in kit.ids(path.stem)})
    rows = [f"{id},{';'.join(kit.classes[number - 1] for number in kit.labels(id))}" for id in ids]
    for id in progress(ids, "shrink"):
        _copy(kit, id, target, long_side)
    _write(target / "image_labels.csv", ["id,labels", *rows])
    _write(target / "classes.txt", kit.classes)
    for path in splits:
        _write(target / "ImageSets" / "Segmentation" / path.name, kit.ids(path.stem))
    return Devkit(target)


def _copy(kit, id, target, long_side):
    photo, mask = target / "JPEGImages" / f"{id}.jpg", target / kit.mask_folder / f"{id}.png"
    masked = kit.mask_path(id).exists()
    image = Image.fromarray(kit.image(id))
    scale = min(1, long_side / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    if photo.exists():
        try:
            with Image.open(photo, formats=["JPEG"]) as file:
                there = file.size
        except Exception:  # decoders raise many kinds for a damaged file
            there = None
        if there != size:
            found = f"{there[0]}x{there[1]}" if there else "a broken file"
            raise InputError(
                f"{photo}: expected {size[0]}x{size[1]} but found {found}; name another folder or "
                "delete this one"
            )
        if mask.exists() or not masked:
            return
    if masked:
        labels = Image.fromarray(kit.mask(id)).resize(size, Image.Resampling.NEAREST)
        save_labels(mask, labels)
    with atomic.write(photo) as partial:  # after the mask: a photo that is there is done
        image.resize(size, Image.Resampling.BICUBIC).save(partial, format="JPEG", quality=95)


def _write(path, lines):
    with atomic.write(path) as partial:
        partial.write_text("\n".join(lines) + "\n")
