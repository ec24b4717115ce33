"""A picture that can be clicked on, for the panel of the explore notebook."""

from pathlib import Path

import anywidget
import traitlets


class ClickableImage(anywidget.AnyWidget):
    """A PNG that reports where it was clicked: (x, y) as fractions of its width and height."""

    _esm = Path(__file__).with_suffix(".js")
    value = traitlets.Bytes(b"").tag(sync=True)
    point = traitlets.List(traitlets.Float(), default_value=[]).tag(sync=True)
