"""The built-in dataset: generated photos of blob creatures whose class shows only on a small badge.

Bodies are large and plain to see, but their colour and texture are drawn at random for each
creature and are the same for all classes; a glyph on the head, a tenth to a sixth of the creature,
tells the class. A classifier can only learn the badge, so its activation maps are partial, and
affinities have something to do.
"""

import colorsys
import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from wsss.errors import InputError
from wsss.io.artifacts import IGNORE, save_labels

VERSION = 1  # of the generator: raise it with any change that alters a photo or a mask

# Where each class's glyph is inked, on the badge's disc: u to the right and v down, 1 at the rim.
# All are coarse, since the smallest badge is two cells of a stride-8 network across.
GLYPHS = {
    "stripes": lambda u, v: np.cos(2 * np.pi * v / 0.65) > 0,
    "quarters": lambda u, v: u * v > 0,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.55) < 0.2,
    "cross": lambda u, v: np.minimum(abs(u), abs(v)) < 0.22,
    "dots": lambda u, v: np.hypot(abs(u) - 0.45, abs(v) - 0.45) < 0.27,
}

SIDES = (
    112,
    145,
)  # of a photo, in pixels, the end left out: networks must not count on one size
ACROSS = (44, 60)  # diameter of the disc with a body's area, in pixels
BADGE_SHARE = (
    0.115,
    0.16,
)  # of the body's area; of the creature's a little less, as the head sticks out
NUMBER_ODDS = (0.4, 0.4, 0.2)  # of 1, 2 and 3 creatures in a photo
VISIBLE_BODY, VISIBLE_BADGE = (
    0.5,
    0.85,
)  # least shares in sight, or the image label would be a guess
TRIES = 60  # places tried for a creature: the first always finds one, a later one may be left out


def generate(root, *, train=240, val=60, seed=1):
    """Write the dataset in VOC's devkit layout into ``root``, unless it is there already.

    The folder appears whole or not at all; its ``shapes.json`` says how it was made. ``train`` and
    ``train_aug`` list the same photos. Photo k of a list depends on the seed and k, not on the
    counts.

    Args:
        root: the folder; missing, empty, or finished by an earlier call, and then left as it is.
        train: number of photos of the ``train`` and ``train_aug`` lists.
        val: number of photos of the ``val`` list.
        seed: of every random choice, from 0 up.

    Returns:
        ``root`` as a Path.

    Raises:
        InputError: the folder holds something else, or a count is below 1.
    """
    root = Path(root)
    if (root / "shapes.json").exists():
        return root
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(
            f"{root}: expected a missing or empty folder, or a finished shapes dataset (with "
            "shapes.json), "
            "but found other things; choose another data_root or empty this one"
        )
    if min(train, val) < 1 or seed < 0:
        raise InputError(
            f"train {train}, val {val}, seed {seed}: expected counts from 1 and a seed from 0 up"
        )

    target = root.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, since only within a file system is a rename one step
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        _write(partial, {"train": train, "val": val}, seed)
        os.replace(partial, target)
    except OSError:
        if not (root / "shapes.json").exists():  # it does exist where another process was quicker
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _write(root, counts, seed):
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names, rows = list(GLYPHS), ["id,labels"]
    for place, (split, count) in enumerate(counts.items()):
        ids = [f"{split}_{number:04d}" for number in range(count)]
        for number, id in enumerate(ids):
            photo, mask, badges = compose(np.random.default_rng([seed, place, number]))
            Image.fromarray(photo).save(root / "JPEGImages" / f"{id}.jpg", quality=95)
            save_labels(root / "SegmentationClassAug" / f"{id}.png", mask)
            rows.append(
                f"{id},{';'.join(names[value - 1] for value in np.unique(badges[badges > 0]))}"
            )
        for name in ("train", "train_aug") if split == "train" else (split,):
            (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    (root / "image_labels.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    made = {"generator_version": VERSION, "seed": seed, **counts}
    (root / "shapes.json").write_text(json.dumps(made, indent=1) + "\n")


def compose(rng):
    """Draw one photo.

    Args:
        rng: numpy Generator.

    Returns:
        photo: uint8 RGB (H, W, 3), sides as in ``SIDES``.
        mask: uint8 (H, W), 0 ground, 1.. the classes in the order of ``GLYPHS``, 255 on a border 2
            pixels wide around each creature.
        badges: uint8 (H, W), the class on the visible part of each badge, elsewhere 0.
    """
    sides = rng.integers(*SIDES, size=2)  # height, width
    y, x = np.indices(sides).astype(float)
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
    """Centre (y, x) and size of the next creature: anywhere, or mostly touching or overlapping
    another.
    """
    across = rng.uniform(*ACROSS)
    if not placed or rng.random() < 0.2:
        return rng.uniform(0.15, 0.85, 2) * sides, across
    other = placed[rng.integers(len(placed))]
    angle = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.7, 1.05) * (across + other.across) / 2
    return other.centre + distance * np.array([np.sin(angle), np.cos(angle)]), across


class _Creature:
    """An outline: a wobbly ellipse with a round head at one end of its long axis, and on that the
    badge.
    """

    def __init__(self, rng, y, x, centre, across):
        self.centre, self.across = centre, across
        angle, stretch = (
            rng.uniform(0, 2 * np.pi),
            rng.uniform(1, 1.25),
        )  # stretch^2: long by short axis
        along, aside = _turn(y - centre[0], x - centre[1], angle)
        direction = np.arctan2(aside * stretch, along / stretch)
        waves = rng.uniform(0, (0.06, 2 * np.pi), (3, 2))  # height as a share of the radius, phase
        outline = 1 + sum(
            a * np.cos(k * direction + b) for k, (a, b) in zip((2, 3, 5), waves, strict=True)
        )
        self.depth = np.hypot(along / stretch, aside * stretch) / (
            across / 2 * outline
        )  # below 1 inside
        self.radius = across / 2 * np.sqrt(rng.uniform(*BADGE_SHARE))
        reach = across / 2 * stretch - 0.5 * self.radius  # from the body's centre to the head's
        self.head = centre + reach * np.array([np.sin(angle), np.cos(angle)])
        from_head = np.hypot(y - self.head[0], x - self.head[1])
        self.badge = from_head < self.radius
        self.body = (self.depth < 1) | (
            from_head < self.radius + 2
        )  # 2 pixels of body round the badge

    def is_seen(self, visible):
        """Whether enough is visible (bool (H, W)): the rest is out of the photo or behind
        another.
        """
        body, badge = (
            np.pi / 4 * self.across**2,
            np.pi * self.radius**2,
        )  # whole areas, in pixels
        return (
            visible.sum() > VISIBLE_BODY * body
            and (visible & self.badge).sum() > VISIBLE_BADGE * badge
        )

    def paint(self, rng, y, x, canvas, glyph):
        """Draws the same numbers whatever the glyph, so that nothing but the badge depends on the
        class.
        """
        main = _colour(rng, saturation=(0.4, 0.9), value=(0.5, 0.95))
        weight = 0.5 + 0.5 * _noise(rng, y[self.body], x[self.body])[:, None]
        light = (
            1.1 - 0.5 * np.minimum(self.depth[self.body], 1)[:, None] ** 3
        )  # the surface turns away
        canvas[self.body] = light * main * (weight + (1 - weight) * rng.uniform(0.3, 0.7, 3))
        spots = np.stack([y[self.badge], x[self.badge]]) - self.head[:, None]  # (2, badge's pixels)
        inked = glyph(*_turn(*spots / self.radius, rng.uniform(-0.3, 0.3)))
        # ink and plate in the body's own hue: the badge belongs to the body, and its colour tells
        # no class
        canvas[self.badge] = np.where(inked[:, None], 0.2 * main, 0.7 + 0.3 * main)


def _turn(y, x, angle):
    """Coordinates (along, aside) of axes turned by ``angle`` radians from x towards y."""
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _colour(rng, *, saturation, value):
    """A random RGB colour in [0, 1] of any hue: float (3,)."""
    return np.array(
        colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    )


def _noise(rng, y, x, *, grain=(2.5, 6.0)):
    """A smooth random field in [-1, 1] at points of any shape, stretched to one side; ``grain`` in
    pixels.
    """
    scale, stretch = rng.uniform(*grain), rng.uniform(1, 4)
    lattice = rng.uniform(-1, 1, (64, 64))  # repeats after 64 grains
    along, aside = _turn(y / scale, x / scale, rng.uniform(0, np.pi))
    along = along / stretch
    a, b = np.floor(along).astype(int), np.floor(aside).astype(int)
    s, t = (
        f * f * (3 - 2 * f) for f in (along - a, aside - b)
    )  # smooth steps between lattice points
    corner = [lattice[(a + i) % 64, (b + j) % 64] for i in (0, 1) for j in (0, 1)]
    return (1 - s) * ((1 - t) * corner[0] + t * corner[1]) + s * (
        (1 - t) * corner[2] + t * corner[3]
    )


def _ground(rng, y, x):
    """Two to four regions of unlike texture with wavy borders, and patches that are no glyphs."""
    warp = [
        12 * _noise(rng, y, x, grain=(15, 30)) for _ in range(2)
    ]  # pixels by which borders wave
    count = rng.integers(2, 5)
    sites = rng.uniform(0, y.shape, (count, 2))
    region = np.argmin(
        [np.hypot(y + warp[0] - site[0], x + warp[1] - site[1]) for site in sites],
        axis=0,
    )
    canvas = np.empty((*y.shape, 3))
    for index in range(count):
        main, other = (_colour(rng, saturation=(0.05, 0.4), value=(0.25, 0.8)) for _ in range(2))
        here = region == index
        weight = 0.5 + rng.uniform(0.15, 0.5) * _noise(rng, y[here], x[here])[:, None]
        canvas[here] = weight * main + (1 - weight) * other
    for _ in range(rng.integers(2, 6)):
        (cy, cx), size = rng.uniform(0, y.shape), rng.uniform(4, 9)
        along, aside = _turn(y - cy, x - cx, rng.uniform(0, 2 * np.pi))
        outlines = (
            np.maximum(abs(along), abs(aside)) < 0.8 * size,  # square
            np.maximum(abs(along) / 2.5, 2 * abs(aside)) < 0.8 * size,  # bar
            (np.hypot(along, aside) < size) & (along > 0),  # half disc
            (abs(aside) < (size - along) / 2) & (along > -size),  # triangle
        )
        canvas[outlines[rng.integers(len(outlines))]] = _colour(
            rng, saturation=(0.0, 0.9), value=(0.1, 1.0)
        )
    return canvas


def _expose(rng, canvas, y, x):
    """The canvas as a camera sees it: light that falls off to one side, slight blur, noise;
    uint8.
    """
    along, _ = _turn(y, x, rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.85, 1.05) + rng.uniform(0, 0.25) * (along - along.mean()) / np.ptp(along)
    sharp = Image.fromarray(
        np.round(255 * np.clip(canvas * light[..., None], 0, 1)).astype(np.uint8)
    )
    photo = np.array(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8))), float)
    photo += rng.normal(0, rng.uniform(3, 8), photo.shape)  # sensor noise, in grey levels of 255
    return np.clip(np.round(photo), 0, 255).astype(np.uint8)
