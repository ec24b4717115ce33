"""The panel of the explore notebook: sliders, a photo to click on, and pictures that follow. A
slider redraws only the pictures that depend on it.
"""

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import ipywidgets as widgets
import numpy as np

from wsss.errors import InputError
from wsss.explore import pictures
from wsss.explore.clickable_image import ClickableImage
from wsss.explore.scene import Scene
from wsss.synthesis import Walk

WIDTH = 240  # pixels on the screen of a picture's longer side; four fit beside each other
CACHED = 4  # photos whose slow parts are kept
STYLE = {"style": {"description_width": "120px"}, "layout": {"width": "335px"}}

TITLES = {
    "photo": "Photo: click a pixel",
    "maps": "Largest activation map",
    "map_labels": "Labels of the maps alone",
    "mask": "Mask (for scores only)",
    "borders": "Where affinities end",
    "share": "Share of the best class",
    "walk_labels": "Labels after the walk",
    "labels": "Labels after dense CRF",
    "surroundings": "Around the pixel",
    "neighbours": "Its affinities",
    "walker": "Where its walker is",
}


class Panel:
    """Controls and pictures of one photo at a time. ``widget`` is what to display; ``images`` and
    ``captions`` map a key of ``TITLES`` to the widget of a PNG and to that of the line below it.

    Args:
        open_scene: photo id to ``Scene``; the message of an InputError is shown.
        ids: photos to choose from; ``photo_id``, shown first, need not be one of them.
        walk, threshold, crf, pixel: what the controls start from. The threshold of the background
            is for labels of the maps alone; the pixel is (x, y).
    """

    def __init__(
        self,
        open_scene: Callable[[str], Scene],
        ids: Sequence[str],
        *,
        photo_id: str,
        walk: Walk,
        threshold: float,
        crf: bool,
        pixel: tuple[int, int],
    ) -> None:
        self._walk, self._drawn, self._scene = walk, {}, lru_cache(CACHED)(open_scene)
        self._scores = lru_cache(1)(Scene.scores)
        self.scene = self._scene(photo_id)
        self._build(ids if photo_id in ids else [photo_id, *ids], photo_id, threshold, crf)
        self._choose(pixel)
        for control in self.alpha, self.beta, self.steps, self.threshold, self.crf, self.x, self.y:
            control.observe(lambda change: self._show(), "value")
        self.photo.observe(self._picked, "value")
        self.images["photo"].observe(self._clicked, "point")
        widgets.link((self.play, "value"), (self.steps, "index"))

    def _build(self, ids, photo_id, threshold, crf):
        walk, times = self._walk, sorted({*pictures.TIMES, self._walk.steps})
        self.photo = widgets.Dropdown(options=ids, value=photo_id, description="photo")
        self.alpha = _slider("background alpha", walk.background_alpha, (0.5, 32), 0.5)
        self.beta = _slider("beta", walk.beta, (0.5, 24), 0.5)
        self.threshold = _slider("threshold", threshold, (0.0, 1.0), 0.01)
        self.steps = widgets.SelectionSlider(
            options=times, value=walk.steps, description="steps t", **STYLE
        )
        self.play = widgets.Play(max=len(times) - 1, value=self.steps.index, interval=600)
        self.crf = widgets.Checkbox(
            value=crf, description="dense CRF", indent=False, layout={"width": "120px"}
        )
        self.x, self.y = (
            widgets.BoundedIntText(description=name, max=0, layout={"width": "160px"})
            for name in ("pixel x", "y")
        )
        self.status, self.legend = widgets.HTML(), widgets.HTML()
        photo = ClickableImage(layout={"margin": "2px"})
        self.images = {name: widgets.Image() for name in TITLES} | {"photo": photo}
        self.captions = {name: widgets.HTML() for name in TITLES}
        column = {"width": f"{WIDTH + 12}px", "align_items": "flex-start"}
        titles = (widgets.HTML(f"<b>{title}</b>") for title in TITLES.values())
        parts = zip(titles, self.images.values(), self.captions.values(), strict=True)
        boxes = [widgets.VBox(each, layout=column) for each in parts]
        controls = (
            [self.photo, self.x, self.y, self.legend],
            [self.threshold, self.alpha, self.beta],
            [self.steps, self.play, self.crf, self.status],
        )
        wrap = {"flex_flow": "row wrap"}
        rows = [widgets.HBox(row, layout=wrap | {"align_items": "center"}) for row in controls]
        self.widget = widgets.VBox([*rows, widgets.HBox(boxes, layout=wrap)])

    def _choose(self, pixel):
        """Set the number fields, which keep to the photo's pixels, to (x, y), and draw."""
        with self.x.hold_trait_notifications(), self.y.hold_trait_notifications():
            self.y.max, self.x.max = (side - 1 for side in self.scene.size)
            self.x.value, self.y.value = pixel
        self._show()

    def _picked(self, change):
        self.status.value = "computing maps and affinities …"
        try:
            scene = self._scene(change["new"])
        except InputError as fault:
            self.photo.value = change["old"]
            self.status.value = f"<b>{html.escape(str(fault))}</b>"
            return
        if scene is not self.scene:  # else the photo before, after one that could not be opened
            self.scene = scene
            self._choose((scene.size[1] // 2, scene.size[0] // 2))

    def _clicked(self, change):
        height, width = self.scene.size
        across, down = change["new"]
        self._choose((int(across * width), int(down * height)))

    def _show(self):
        """Redraw the pictures that have changed."""
        began, scene = time.perf_counter(), self.scene
        alpha, beta, steps = self.alpha.value, self.beta.value, self.steps.value
        walk = replace(self._walk, background_alpha=alpha, beta=beta, steps=steps)
        threshold, crf, pixel = self.threshold.value, self.crf.value, (self.x.value, self.y.value)
        cell, scores = scene.cell_at(*pixel[::-1]), self._scores(scene, walk)
        scored = "this photo has none" if scene.mask is None else "white: not scored"
        near = f"cell: row {cell[0]}, column {cell[1]}; 8 pixels each"
        power = f"to the power of beta = {beta:g}; black 0, yellow 1"
        wins, bright = "after the walk; it wins above 0.5", "bright: a walker hardly crosses"
        # name -> what the picture depends on, and what draws it with its caption
        drawings = {
            "photo": (pixel, lambda: (pictures.photo(scene, pixel), self._tags())),
            "maps": ((), lambda: (pictures.heat(scene, scene.largest_map), "black 0, yellow 1")),
            "map_labels": (threshold, lambda: self._labels(scene.cam_labels(threshold))),
            "mask": ((), lambda: (pictures.labels(scene, scene.mask), scored)),
            "borders": ((), lambda: (pictures.heat(scene, scene.borders), bright)),
            "share": (walk, lambda: (pictures.share(scene, scores), wins)),
            "walk_labels": (walk, lambda: self._labels(scene.plain_labels(scores))),
            "labels": ((walk, crf), lambda: self._final(scores, walk, crf)),
            "surroundings": (pixel, lambda: (pictures.surroundings(scene, pixel), near)),
            "neighbours": (
                (pixel, beta),
                lambda: (pictures.neighbours(scene, pixel, beta=beta), power),
            ),
            "walker": ((pixel, walk), lambda: self._walker(cell, pixel, walk)),
        }
        for name, (key, draw) in drawings.items():
            if self._drawn.get(name) != (scene, key):
                picture, caption = draw()
                share = picture.shape[1] / max(picture.shape[:2])
                self.images[name].layout.width = f"{round(WIDTH * share)}px"
                self.images[name].value = pictures.png(picture)
                self.captions[name].value = f"<div style='line-height: 1.3'>{caption}</div>"
                self._drawn[name] = scene, key
        (height, width), seconds = scene.size, time.perf_counter() - began
        self.status.value = f"{width} x {height} pixels, drawn in {seconds:.2f} s"

    def _tags(self):
        colours = {html.escape(name): each for name, each in pictures.legend(self.scene).items()}
        self.legend.value = "".join(
            f"&emsp;<span style='color: {colour}'>&#9632;</span> {name}"
            for name, colour in colours.items()
        )
        return "tagged: " + ", ".join(colours)

    def _labels(self, labels, note=""):
        caption = "no mask to score against"
        if (scores := self.scene.iou(labels)) is not None:
            each = ", ".join(f"{html.escape(name)} {100 * v:.0f}" for name, v in scores.items())
            caption = f"mean IoU <b>{100 * np.mean(list(scores.values())):.1f}</b>: {each}"
        return pictures.labels(self.scene, labels), caption + note

    def _final(self, scores, walk, crf):
        if not crf:
            return self._labels(self.scene.plain_labels(scores), "<br>CRF off: the walk's labels")
        labels, note = self.scene.crf_labels(scores, walk, preview=True), ""
        if self.scene.shrink > 1:
            note = f"<br>previewed at {max(self.scene.small.shape[:2])} pixels"
        return self._labels(labels, note)

    def _walker(self, cell, pixel, walk):
        ends = self.scene.walker(cell, walk)
        caption = f"t = {walk.steps}; still on its cell: {100 * ends[cell]:.1f} %"
        return pictures.walker(self.scene, ends, pixel), caption


def _slider(name, value, ends, step):
    """A slider whose range holds the value."""
    low, high = min(ends[0], value), max(ends[1], value)
    return widgets.FloatSlider(value=value, min=low, max=high, step=step, description=name, **STYLE)
