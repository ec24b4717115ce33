"""The panel of the explore notebook: sliders, a photo to click on, and pictures that follow.

The slow parts of a photo are computed when it is picked; a slider redraws only the pictures that
depend on it.
"""

import html
import time
from contextlib import contextmanager
from dataclasses import replace

import ipywidgets as widgets

from wsss.errors import InputError
from wsss.explore import pictures
from wsss.explore.clickable_image import ClickableImage

WIDTH = 240  # pixels of the screen of a picture's longer side; four fit beside each other
KEPT = 4  # photos whose slow parts are kept

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
    """Controls and pictures of one photo at a time.

    Args:
        open_scene: photo id to ``explore.Scene``; may raise InputError, which is shown.
        ids: of the photos to choose from.
        photo_id: of the photo shown first, which need not be one of them.
        walk: the ``synthesis.Walk`` that the sliders start from.
        threshold: of the background, for labels of the maps alone.
        crf: whether the CRF is on at first.
        pixel: (x, y) chosen at first.

    Attributes:
        widget: to display.
        images: name of a picture (the keys of ``TITLES``) to its widget, whose ``value`` is a PNG.
        captions: the same of the lines below them.
        photo, alpha, beta, steps, threshold, crf, x, y, play: the controls.
        status: what was drawn, or what was wrong.
    """

    def __init__(self, open_scene, ids, *, photo_id, walk, threshold, crf, pixel):
        self._open, self._walk = open_scene, walk
        self._scenes, self._drawn, self._quiet = {}, {}, False
        self._build(ids, photo_id, threshold, crf)
        self.scene = self._scene(photo_id)
        self._choose(pixel)
        self._show()
        for control in (self.alpha, self.beta, self.steps, self.threshold, self.crf):
            control.observe(self._changed, "value")
        for control in (self.x, self.y):
            control.observe(self._changed, "value")
        self.photo.observe(self._picked, "value")
        self.images["photo"].observe(self._clicked, "point")
        widgets.link((self.play, "value"), (self.steps, "index"))

    def _build(self, ids, photo_id, threshold, crf):
        options = ids if photo_id in ids else [photo_id, *ids]
        self.photo = widgets.Dropdown(options=options, value=photo_id, description="photo")
        self.alpha = _slider("background alpha", self._walk.background_alpha, 0.5, 32, 0.5)
        self.beta = _slider("beta", self._walk.beta, 0.5, 24, 0.5)
        self.threshold = _slider("threshold", threshold, 0.0, 1.0, 0.01)
        times = sorted({*pictures.TIMES, self._walk.steps})
        self.steps = widgets.SelectionSlider(
            options=times, value=self._walk.steps, description="steps t", **_STYLE
        )
        self.play = widgets.Play(
            max=len(times) - 1, value=self.steps.index, interval=600, show_repeat=True
        )
        self.crf = widgets.Checkbox(
            value=crf, description="dense CRF", indent=False, layout={"width": "120px"}
        )
        self.x = widgets.BoundedIntText(description="pixel x", max=0, layout={"width": "160px"})
        self.y = widgets.BoundedIntText(description="y", max=0, layout={"width": "160px"})
        self.status, self.legend = widgets.HTML(), widgets.HTML()
        self.images = {
            name: ClickableImage(layout={"margin": "2px"})
            if name == "photo"
            else widgets.Image(format="png")
            for name in TITLES
        }
        self.captions = {name: widgets.HTML() for name in TITLES}
        column = widgets.Layout(width=f"{WIDTH + 12}px", align_items="flex-start")
        boxes = [
            widgets.VBox(
                [widgets.HTML(f"<b>{title}</b>"), self.images[name], self.captions[name]],
                layout=column,
            )
            for name, title in TITLES.items()
        ]
        controls = (
            [self.photo, self.x, self.y, self.legend],
            [self.threshold, self.alpha, self.beta],
            [self.steps, self.play, self.crf, self.status],
        )
        rows = [
            widgets.HBox(row, layout={"flex_flow": "row wrap", "align_items": "center"})
            for row in controls
        ]
        self.widget = widgets.VBox([*rows, widgets.HBox(boxes, layout={"flex_flow": "row wrap"})])

    def _scene(self, photo_id):
        if photo_id not in self._scenes:
            scene = self._open(photo_id)
            while len(self._scenes) >= KEPT:  # drop the one opened first
                del self._scenes[next(iter(self._scenes))]
            self._scenes[photo_id] = scene
        return self._scenes[photo_id]

    @contextmanager
    def _quietly(self):
        """Set several controls without drawing; the caller then draws once."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _choose(self, pixel):
        """Set the number fields to a pixel (x, y), at most the photo's last."""
        height, width = self.scene.size
        with self._quietly():
            for field, place, count in ((self.x, pixel[0], width), (self.y, pixel[1], height)):
                field.max = count - 1
                field.value = min(max(place, 0), count - 1)

    def _picked(self, change):
        if self._quiet:
            return
        self.status.value = "computing maps and affinities …"
        try:
            self.scene = self._scene(change["new"])
        except InputError as fault:
            with self._quietly():
                self.photo.value = change["old"]
            self.status.value = f"<b>{html.escape(str(fault))}</b>"
            return
        height, width = self.scene.size
        self._choose((width // 2, height // 2))
        self._show()

    def _clicked(self, change):
        height, width = self.scene.size
        across, down = change["new"]
        self._choose((int(across * width), int(down * height)))
        self._show()

    def _changed(self, change):
        if not self._quiet:
            self._show()

    def _show(self):
        """Redraw the pictures that have changed."""
        began = time.perf_counter()
        scene = self.scene
        walk = replace(
            self._walk,
            background_alpha=self.alpha.value,
            beta=self.beta.value,
            steps=self.steps.value,
        )
        pixel = self.x.value, self.y.value
        cell = scene.cell_at(*pixel[::-1])
        threshold, with_crf = self.threshold.value, self.crf.value
        self._draw("photo", pixel, lambda: (pictures.photo(scene, pixel), self._tags()))
        self._draw(
            "maps", (), lambda: (pictures.heat(scene, scene.largest_map), "black 0, yellow 1")
        )
        self._draw("map_labels", threshold, lambda: self._labels(scene.cam_labels(threshold)))
        self._draw("mask", (), lambda: self._mask())
        self._draw(
            "borders",
            (),
            lambda: (pictures.heat(scene, scene.borders), "bright: a walker hardly crosses"),
        )
        scores = scene.scores(walk)
        self._draw(
            "share",
            walk,
            lambda: (pictures.share(scene, scores), "after the walk; it wins above 0.5"),
        )
        self._draw("walk_labels", walk, lambda: self._labels(scene.plain_labels(scores)))
        self._draw("labels", (walk, with_crf), lambda: self._final(scores, walk, with_crf))
        self._draw(
            "surroundings", pixel, lambda: (pictures.surroundings(scene, pixel), _place(cell))
        )
        self._draw(
            "neighbours",
            (pixel, walk.beta),
            lambda: (
                pictures.neighbours(scene, pixel, beta=walk.beta),
                f"to the power of beta = {walk.beta:g}; black 0, yellow 1",
            ),
        )
        self._draw("walker", (pixel, walk), lambda: self._walker(cell, pixel, walk))
        height, width = scene.size
        seconds = time.perf_counter() - began
        self.status.value = f"{width} x {height} pixels, drawn in {seconds:.2f} s"

    def _draw(self, name, key, compute):
        """Redraw a picture and its caption if the photo or ``key`` has changed."""
        key = self.scene, key
        if self._drawn.get(name) != key:
            picture, caption = compute()
            image = self.images[name]
            share = picture.shape[1] / max(picture.shape[:2])
            width = f"{round(WIDTH * share)}px"
            if name == "photo":
                image.width = width
            else:
                image.layout.width = width
            image.value = pictures.png(picture)
            self.captions[name].value = f"<div style='line-height: 1.3'>{caption}</div>"
            self._drawn[name] = key

    def _tags(self):
        colours = pictures.legend(self.scene).items()
        self.legend.value = "".join(
            f"&emsp;<span style='color: {colour}'>&#9632;</span> {html.escape(name)}"
            for name, colour in colours
        )
        return "tagged: " + html.escape(", ".join(name for name, _ in colours))

    def _labels(self, labels, note=""):
        scores = self.scene.iou(labels)
        if scores is None:
            caption = "no mask to score against"
        else:
            mean = sum(scores.values()) / len(scores)
            each = ", ".join(f"{html.escape(name)} {100 * v:.0f}" for name, v in scores.items())
            caption = f"mean IoU <b>{100 * mean:.1f}</b>: {each}"
        return pictures.labels(self.scene, labels), caption + note

    def _mask(self):
        mask = self.scene.mask
        caption = "this photo has none" if mask is None else "white: not scored"
        return pictures.labels(self.scene, mask), caption

    def _final(self, scores, walk, with_crf):
        if not with_crf:
            labels = self.scene.plain_labels(scores)
            return self._labels(labels, "<br>CRF off: as the walk left them")
        labels = self.scene.crf_labels(scores, walk, preview=True)
        side = max(self.scene.small.shape[:2])
        return self._labels(
            labels, f"<br>previewed at {side} pixels" if self.scene.shrink > 1 else ""
        )

    def _walker(self, cell, pixel, walk):
        (ends,) = self.scene.walker(cell, walk, times=[walk.steps])
        caption = f"t = {walk.steps}; still on its cell: {100 * ends[cell]:.1f} %"
        return pictures.walker(self.scene, ends, pixel), caption


_STYLE = {"style": {"description_width": "120px"}, "layout": {"width": "335px"}}


def _slider(description, value, low, high, step):
    """A slider whose range holds the value."""
    return widgets.FloatSlider(
        value=value,
        min=min(low, value),
        max=max(high, value),
        step=step,
        description=description,
        **_STYLE,
    )


def _place(cell):
    return f"cell: row {cell[0]}, column {cell[1]}; 8 pixels each"
