"""Overlays, contact sheets, curves. Arrays in, arrays or figures out."""

import colorsys
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw
from scipy import ndimage

from wsss.geometry import upsample
from wsss.metrics import ConfusionMatrix

FILL = 0.4  # share of a class's colour inside its regions
GOLDEN = (5**0.5 - 1) / 2  # of a turn: the hues of successive classes are far apart
SEEN_PIXELS = 400  # of a region that gets its name

plt.rcParams["text.parse_math"] = False  # a class may be called $a%b$


def class_colours() -> np.ndarray:
    """Bright colours of the values of a label map, uint8 (256, 3); 255 is white."""
    colours = [colorsys.hls_to_rgb(k * GOLDEN % 1, 0.42 + 0.16 * (k % 3), 1) for k in range(255)]
    return (255 * np.array([*colours, (1, 1, 1)])).round().astype(np.uint8)


def overlay_labels(
    image: np.ndarray, labels: np.ndarray, *, names: Mapping[int, str] | None = None
) -> np.ndarray:
    """A label map (H, W) over its photo, uint8 (H, W, 3): regions in light colours with a contour
    of two pixels, background as in the photo, 255 white. ``names`` of classes are written into
    their largest regions.
    """
    labels, colours = np.asarray(labels), class_colours()
    cross = ndimage.generate_binary_structure(2, 1)
    highest = ndimage.maximum_filter(labels, footprint=cross, mode="nearest")
    edge = highest != ndimage.minimum_filter(labels, footprint=cross, mode="nearest")
    # a border has a pixel on either side; on the background's it gets the region's colour
    painted = np.where(labels == 0, highest, labels)
    weight = np.where(edge, 1.0, np.where(labels == 0, 0.0, FILL))[..., None]
    mixed = (image * (1 - weight) + colours[painted] * weight).round().astype(np.uint8)
    return _named(mixed, labels, names) if names else mixed


def overlay_mask(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
    """``overlay_labels``, or None for a photo without a mask."""
    return None if mask is None else overlay_labels(image, mask)


def _named(picture, labels, names):
    """The picture with the name of each class in the middle of its largest region."""
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    size = max(12, min(picture.shape[:2]) // 24)
    for value in sorted({*np.unique(labels).tolist()} & names.keys()):
        inside = np.pad(labels == value, 1)
        if inside.sum() >= SEEN_PIXELS:
            depth = np.asarray(ndimage.distance_transform_edt(inside))
            y, x = map(int, np.unravel_index(depth.argmax(), depth.shape))
            look = {"fill": "white", "stroke_fill": "black", "stroke_width": 2, "anchor": "mm"}
            draw.text((x - 1, y - 1), names[value], font_size=size, **look)
    return np.array(drawn)


def overlay_map(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (h, w) in [0, 1], of any resolution, as colours over its photo: uint8 (H, W, 3)."""
    heat = upsample(np.asarray(heat, np.float32)[None], image.shape[:2]).numpy()[0].clip(0, 1)
    colours = plt.get_cmap("inferno")(heat)[..., :3] * 255
    return (0.45 * image + 0.55 * colours).round().astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    *,
    names: Sequence[str] = (),
    legend: Mapping[int, str] | None = None,
) -> Figure:
    """A figure of pictures: ``rows`` of uint8 (H, W, 3) arrays, one title per column, optionally
    one name per row and a legend of classes by number. A column without a picture is left out.
    """
    kept = [place for place in range(len(titles)) if any(row[place] is not None for row in rows)]
    rows, titles = [[row[k] for k in kept] for row in rows], [titles[k] for k in kept]
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(2.2 * len(titles), 1.76 * len(rows)),
        squeeze=False,
        layout="constrained",
        subplot_kw={"xticks": [], "yticks": [], "frame_on": False},
    )
    for axis, picture in zip(axes.flat, (each for row in rows for each in row), strict=True):
        if picture is not None:
            axis.imshow(picture)
    for axis, name in zip(axes[:, 0], names or [""] * len(rows), strict=True):
        axis.set_ylabel(name, fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    if legend:
        colours = class_colours() / 255
        patches = [Patch(color=colours[k], label=name) for k, name in sorted(legend.items())]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _lines(table, **more):
    """A figure of a line per column, and its axis."""
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    table.plot(ax=axis, **more)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def curves(history: Sequence[Mapping[str, float]], names: Sequence[str], *, title: str) -> Figure:
    """A figure of training's metrics over epochs; ``history`` is from ``train.loop.fit``."""
    epochs = pd.RangeIndex(1, len(history) + 1, name="epoch")
    table = pd.DataFrame(history, index=epochs, columns=list(names))
    figure, axis = _lines(table, marker="o", ylabel="loss", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def confusion(matrix: ConfusionMatrix, classes: Sequence[str], *, title: str) -> Figure:
    """A figure of the share of each class's pixels predicted as each class, in numbers from 5 %."""
    import seaborn as sns  # slow to import, and not for every figure

    counts = matrix.matrix / np.maximum(matrix.matrix.sum(1, keepdims=True), 1)
    names = ["background", *classes]
    size = 2.5 + 0.36 * len(names)
    figure, axis = plt.subplots(figsize=(size + 0.8, size), layout="constrained")
    shown = np.where(counts >= 0.05, np.char.mod("%.0f", 100 * counts), "")
    look = {"annot": shown, "fmt": "", "cmap": "rocket_r", "vmin": 0, "vmax": 100}
    look |= {"annot_kws": {"fontsize": 8}, "square": True}
    bar = {"label": "% of the class's pixels", "shrink": 0.8}
    sns.heatmap(pd.DataFrame(100 * counts, names, names), ax=axis, cbar_kws=bar, **look)
    axis.set(xlabel="predicted", ylabel="mask", title=title)
    axis.tick_params(axis="x", rotation=90)
    axis.tick_params(axis="y", rotation=0)
    return figure


def iou_bars(table: pd.DataFrame, *, title: str) -> Figure:
    """A figure of ``photos.evaluation.iou_table``: bars per class, one colour per column."""
    import seaborn as sns

    long = table.melt("class", var_name="labels", value_name="IoU (%)")
    width = 2 + 0.34 * len(table) * max(1, len(table.columns) - 1)
    figure, axis = plt.subplots(figsize=(width, 3.6), layout="constrained")
    sns.barplot(long, x="class", y="IoU (%)", hue="labels", ax=axis)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f", fontsize=7)  # pyright: ignore[reportArgumentType]
    axis.set(title=title, xlabel="", ylim=(0, 105))
    axis.tick_params(axis="x", rotation=60)
    sns.move_legend(axis, "lower center", bbox_to_anchor=(0.5, 1.08), title=None, frameon=False)
    sns.despine(figure)
    return figure


def sweep(
    thresholds: Sequence[float], columns: Mapping[str, Sequence[float]], *, fixed: float, title: str
) -> Figure:
    """A figure of mIoU over the background threshold, one line per named list of numbers in
    [0, 1], with the threshold ``fixed`` beforehand.
    """
    table = 100 * pd.DataFrame(columns, index=pd.Index(thresholds, name="background threshold"))
    figure, axis = _lines(table, ylabel="mIoU (%)", title=title)
    axis.axvline(fixed, color="grey", linestyle="--", label="fixed beforehand")
    axis.legend()
    return figure


def sweep_map(frame: pd.DataFrame, names: Sequence[str], *, figure_name: str) -> Figure:
    """A figure of one score over a sweep: heat maps over two swept parameters (one per value of a
    third), a line over a single numeric one, else bars. ``frame`` has one row per combination, with
    the columns ``names`` and ``figure_name``.
    """
    columns = [name for name in names if len(frame[name].dropna().unique()) > 1] or list(names)
    if len(columns) in (2, 3):
        return _heat_maps(frame, columns, figure_name)
    if len(columns) == 1 and all(isinstance(v, int | float) for v in frame[columns[0]]):
        look = {"marker": "o", "legend": False, "ylabel": f"{figure_name} (%)"}
        return _lines(frame.set_index(columns)[[figure_name]], title=figure_name, **look)[0]
    labels = frame[columns].astype(str).agg(", ".join, axis=1)
    figure, axis = plt.subplots(figsize=(6, max(3, 1 + 0.2 * len(frame))), layout="constrained")
    axis.barh(labels, frame[figure_name])
    axis.invert_yaxis()  # the first on top
    axis.set(xlabel=f"{figure_name} (%)", title=figure_name)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _heat_maps(frame, columns, score):
    """A heat map over two columns for each value of a third (the one with the fewest), on one
    colour scale; the highest score is framed.
    """
    import seaborn as sns

    groups, (down, across) = [(score, frame)], columns[:2]
    if len(columns) == 3:
        third = min(columns[::-1], key=lambda name: frame[name].nunique())
        down, across = [name for name in columns if name != third]
        groups = [(f"{third} = {value}", g) for value, g in frame.groupby(third, sort=False)]
    wide = int(np.ceil(np.sqrt(len(groups))))
    high = -(-len(groups) // wide)
    width, height = 2 + 0.7 * frame[across].nunique(), 1.6 + 0.45 * frame[down].nunique()
    figure = plt.figure(figsize=(wide * width, high * height), layout="constrained")
    low, top = frame[score].min(), frame[score].max()
    look = {"annot": True, "fmt": ".1f", "cmap": "rocket", "vmin": low, "vmax": top, "cbar": False}
    framed = {"fill": False, "edgecolor": "cyan", "linewidth": 2, "clip_on": False}
    for place, (title, group) in enumerate(groups, 1):
        axis = figure.add_subplot(high, wide, place, title=title)
        table = group.pivot_table(score, down, across, sort=False)
        sns.heatmap(table, ax=axis, **look).tick_params(axis="y", rotation=0)
        for row, column in np.argwhere(table.to_numpy() == top):
            axis.add_patch(plt.Rectangle((column, row), 1, 1, **framed))
    if len(groups) > 1:
        figure.suptitle(score)
    return figure
