"""The built-in dataset: generated photos of blob creatures whose class shows only on a small badge.

Colour and texture of a body are random and independent of its class; a glyph on the head, a tenth
to a sixth of the creature, tells the class. A classifier can only learn the badge, so its
activation maps are partial and affinities have something to add.
"""

import colorsys
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, save_labels

VERSION = 1  # of the generator: raise it with any change that alters a photo or a mask

# Where each glyph is inked on the badge's disc: u to the right, v down, 1 at the rim. The smallest
# badge is two cells of a stride-8 network across, so all are coarse.
GLYPHS = {
    "stripes": lambda u, v: np.cos(2 * np.pi * v / 0.65) > 0,
    "quarters": lambda u, v: u * v > 0,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.55) < 0.2,
    "cross": lambda u, v: np.minimum(abs(u), abs(v)) < 0.22,
    "dots": lambda u, v: np.hypot(abs(u) - 0.45, abs(v) - 0.45) < 0.27,
}

SIDES = (112, 145)  # pixels, end exclusive: no network may rely on one photo size
ACROSS = (44, 60)  # pixels: diameter of the disc with a body's area
BADGE_SHARE = (0.115, 0.16)  # of the body's area; the head sticks out, so of the creature less
NUMBER_ODDS = (0.4, 0.4, 0.2)  # of 1, 2 and 3 creatures in a photo
VISIBLE_BODY, VISIBLE_BADGE = 0.5, 0.85  # least visible shares, or the label would be a guess
TRIES = 60  # positions tried per creature: the first always fits, a later one may be left out


def generate(root: Path | str, *, train: int = 240, val: int = 60, seed: int = 1) -> Path:
    """Write the dataset in VOC's devkit layout into ``root``, unless it exists: ``train`` photos on
    the lists train and train_aug, ``val`` photos on the list val.

    The folder appears whole or not at all; its ``shapes.json`` records how it was made. Photo k of
    a list depends on ``seed``, from 0, and k alone. Raises InputError if the folder contains
    something else, or a count is below 1.
    """
    root = Path(root)
    if (root / "shapes.json").exists():
        return root
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(
            f"{root}: expected a missing or empty folder, or a finished shapes dataset (with "
            "shapes.json), but found other things; choose another data_root or empty this one"
        )
    if min(train, val) < 1 or seed < 0:
        given = f"train {train}, val {val}, seed {seed}"
        raise InputError(f"{given}: expected counts from 1 and a seed from 0; change them")
    target = root.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder, as a rename is atomic only within a file system
    with tempfile.TemporaryDirectory(".partial", f".{target.name}.", target.parent) as partial:
        _write(Path(partial, "shapes"), {"train": train, "val": val}, seed)
        try:
            os.replace(Path(partial, "shapes"), target)
        except OSError:
            if not (root / "shapes.json").exists():  # else another process was quicker
                raise
    return root


def _write(root, counts, seed):
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    texts = {"classes.txt": list(GLYPHS), "image_labels.csv": ["id,labels"]}  # name to lines
    for place, (split, count) in enumerate(counts.items()):
        ids = [f"{split}_{number:04d}" for number in range(count)]
        for number, id in enumerate(ids):
            photo, mask, badges = compose(np.random.default_rng([seed, place, number]))
            Image.fromarray(photo).save(root / "JPEGImages" / f"{id}.jpg", quality=95)
            save_labels(root / "SegmentationClassAug" / f"{id}.png", mask)
            labels = ";".join(list(GLYPHS)[value - 1] for value in np.unique(badges[badges > 0]))
            texts["image_labels.csv"].append(f"{id},{labels}")
        for name in ("train", "train_aug") if split == "train" else (split,):
            texts[f"ImageSets/Segmentation/{name}.txt"] = ids
    made = {"generator_version": VERSION, "seed": seed, **counts}
    texts["shapes.json"] = [json.dumps(made, indent=1)]
    for name, lines in texts.items():
        (root / name).write_text("\n".join(lines) + "\n", "utf-8")


def compose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one photo. Returns its pixels, uint8 RGB (H, W, 3), sides as in ``SIDES``; its mask,
    uint8 (H, W), 0 background, 1.. the classes in the order of ``GLYPHS``, 255 on a border 2 pixels
    wide around each creature; and its badges, uint8 (H, W), the class on the visible part of each,
    elsewhere 0.
    """
    sides = rng.integers(*SIDES, size=2)  # height, width
    y, x = np.indices(tuple(sides)).astype(float)
    canvas = _ground(rng, y, x)  # (H, W, 3) in [0, 1]

    number = rng.choice(len(NUMBER_ODDS), p=NUMBER_ODDS) + 1
    present = rng.choice(len(GLYPHS), size=rng.integers(1, min(number, 3) + 1), replace=False) + 1
    owner = np.zeros(sides, int)  # which creature is seen at a pixel, counted from 1
    placed, class_of = [], [0]
    for value in [*present, *rng.choice(present, size=number - len(present))]:
        for _ in range(TRIES):
            creature = _Creature(rng, y, x, *_place(rng, placed, sides))
            trial = np.where(creature.body, len(placed) + 1, owner)
            if all(one.is_seen(trial == index) for index, one in enumerate([*placed, creature], 1)):
                creature.paint(rng, y, x, canvas, list(GLYPHS.values())[value - 1])
                owner = trial
                placed.append(creature)
                class_of.append(value)
                break

    mask = np.array(class_of, np.uint8)[owner]
    badges = np.zeros_like(mask)
    for index, creature in enumerate(placed, 1):
        badges[creature.badge & (owner == index)] = class_of[index]
    for axis in (0, 1):
        along, other = owner.swapaxes(0, axis), mask.swapaxes(0, axis)
        change = along[1:] != along[:-1]
        other[1:][change] = other[:-1][change] = IGNORE
    return _expose(rng, canvas, y, x), mask, badges


def _place(rng, placed, sides):
    """Centre (y, x) and size of the next creature, which mostly touches or overlaps another."""
    across = rng.uniform(*ACROSS)
    if not placed or rng.random() < 0.2:
        return rng.uniform(0.15, 0.85, 2) * sides, across
    other = placed[rng.integers(len(placed))]
    angle = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.7, 1.05) * (across + other.across) / 2
    return other.centre + distance * np.array([np.sin(angle), np.cos(angle)]), across


class _Creature:
    """A wobbly ellipse with a round head, which carries the badge, at one end of its long axis."""

    def __init__(self, rng, y, x, centre, across):
        self.centre, self.across = centre, across
        angle = rng.uniform(0, 2 * np.pi)
        stretch = rng.uniform(1, 1.25)  # its square is long axis / short axis
        along, aside = _turn(y - centre[0], x - centre[1], angle)
        direction = np.arctan2(aside * stretch, along / stretch)
        waves = rng.uniform(0, (0.06, 2 * np.pi), (3, 2))  # height as a share of the radius, phase
        outline = 1 + sum(
            a * np.cos(k * direction + b) for k, (a, b) in zip((2, 3, 5), waves, strict=True)
        )
        distance = np.hypot(along / stretch, aside * stretch)
        self.depth = distance / (across / 2 * outline)  # below 1 inside
        self.radius = across / 2 * np.sqrt(rng.uniform(*BADGE_SHARE))
        reach = across / 2 * stretch - 0.5 * self.radius  # from the body's centre to the head's
        self.head = centre + reach * np.array([np.sin(angle), np.cos(angle)])
        from_head = np.hypot(y - self.head[0], x - self.head[1])
        self.badge = from_head < self.radius
        self.body = (self.depth < 1) | (from_head < self.radius + 2)  # 2 pixels around the badge

    def is_seen(self, visible):
        """Whether enough of the whole areas of body and badge is ``visible``, bool (H, W)."""
        body, badge = np.pi / 4 * self.across**2, np.pi * self.radius**2  # pixels
        seen = visible.sum() > VISIBLE_BODY * body
        return seen and (visible & self.badge).sum() > VISIBLE_BADGE * badge

    def paint(self, rng, y, x, canvas, glyph):
        """Draw the same random numbers for every glyph: only the badge depends on the class."""
        main = _colour(rng, saturation=(0.4, 0.9), value=(0.5, 0.95))
        weight = 0.5 + 0.5 * _noise(rng, y[self.body], x[self.body])[:, None]
        # the surface turns away
        light = 1.1 - 0.5 * np.minimum(self.depth[self.body], 1)[:, None] ** 3
        canvas[self.body] = light * main * (weight + (1 - weight) * rng.uniform(0.3, 0.7, 3))
        v = (y[self.badge] - self.head[0]) / self.radius
        u = (x[self.badge] - self.head[1]) / self.radius
        inked = glyph(*_turn(v, u, rng.uniform(-0.3, 0.3)))
        # ink and plate in the body's hue: the badge's colour does not tell the class
        canvas[self.badge] = np.where(inked[:, None], 0.2 * main, 0.7 + 0.3 * main)


def _turn(y, x, angle):
    """Coordinates (along, aside) of axes turned by ``angle`` radians from x towards y."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _colour(rng, *, saturation, value):
    """A random RGB colour in [0, 1] of any hue: float (3,)."""
    hue = rng.random()
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value)))


def _noise(rng, y, x, *, grain=(2.5, 6.0)):
    """A smooth, stretched random field in [-1, 1] at points of any shape; ``grain`` in pixels."""
    scale, stretch = rng.uniform(*grain), rng.uniform(1, 4)
    lattice = rng.uniform(-1, 1, (64, 64))  # repeats after 64 grains
    along, aside = _turn(y / scale, x / scale, rng.uniform(0, np.pi))
    along = along / stretch
    a, b = np.floor(along).astype(int), np.floor(aside).astype(int)
    s, t = (f * f * (3 - 2 * f) for f in (along - a, aside - b))  # smooth between lattice points
    left, right, far_left, far_right = (
        lattice[(a + i) % 64, (b + j) % 64] for i in (0, 1) for j in (0, 1)
    )
    return (1 - s) * ((1 - t) * left + t * right) + s * ((1 - t) * far_left + t * far_right)


def _ground(rng, y, x):
    """Two to four regions of unlike texture with wavy borders, and patches that are not glyphs."""
    warp = [12 * _noise(rng, y, x, grain=(15, 30)) for _ in range(2)]  # of borders, in pixels
    count = rng.integers(2, 5)
    sites = rng.uniform(0, y.shape, (count, 2))
    distances = [np.hypot(y + warp[0] - site[0], x + warp[1] - site[1]) for site in sites]
    region = np.argmin(distances, axis=0)
    canvas = np.empty((*y.shape, 3))
    for index in range(count):
        main, other = (_colour(rng, saturation=(0.05, 0.4), value=(0.25, 0.8)) for _ in range(2))
        inside = region == index
        weight = 0.5 + rng.uniform(0.15, 0.5) * _noise(rng, y[inside], x[inside])[:, None]
        canvas[inside] = weight * main + (1 - weight) * other
    for _ in range(rng.integers(2, 6)):
        (cy, cx), size = rng.uniform(0, y.shape), rng.uniform(4, 9)
        along, aside = _turn(y - cy, x - cx, rng.uniform(0, 2 * np.pi))
        outlines = (
            np.maximum(abs(along), abs(aside)) < 0.8 * size,  # square
            np.maximum(abs(along) / 2.5, 2 * abs(aside)) < 0.8 * size,  # bar
            (np.hypot(along, aside) < size) & (along > 0),  # half disc
            (abs(aside) < (size - along) / 2) & (along > -size),  # triangle
        )
        colour = _colour(rng, saturation=(0.0, 0.9), value=(0.1, 1.0))
        canvas[outlines[rng.integers(len(outlines))]] = colour
    return canvas


def _expose(rng, canvas, y, x):
    """The canvas through a camera: light that falls off to one side, blur, noise; uint8."""
    along, _ = _turn(y, x, rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.85, 1.05) + rng.uniform(0, 0.25) * (along - along.mean()) / np.ptp(along)
    lit = np.round(255 * np.clip(canvas * light[..., None], 0, 1)).astype(np.uint8)
    sharp = Image.fromarray(lit)
    photo = np.array(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8))), float)
    photo += rng.normal(0, rng.uniform(3, 8), photo.shape)  # sensor noise, in grey levels of 255
    return np.clip(np.round(photo), 0, 255).astype(np.uint8)
