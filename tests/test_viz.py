"""Figures show the names that users give literally, whatever matplotlib would make of them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from wsss import viz
from wsss.metrics import ConfusionMatrix

NAMES = ["$5_$10.jpg", "$a%b$", "$$", "$#1$", r"\\$", "{x}", "100 %"]
PICTURE = np.zeros((8, 8, 3), np.uint8)


def bars():
    """As 00_dataset draws them."""
    return pd.DataFrame({"$train_$": 1}, index=NAMES).plot.bar(title=NAMES[1]).figure


def confused():
    matrix = ConfusionMatrix(len(NAMES) + 1)
    return viz.confusion(matrix, NAMES, title=NAMES[0])


FIGURES = {
    "bars": bars,
    "contact sheet": lambda: viz.contact_sheet([[PICTURE]] * len(NAMES), NAMES[:1], names=NAMES),
    "confusion": confused,
    "curves": lambda: viz.curves([dict.fromkeys(NAMES, 1.0)] * 2, NAMES, title=NAMES[0]),
    "iou": lambda: viz.iou_bars(pd.DataFrame({"class": NAMES, NAMES[0]: 1.0}), title=NAMES[1]),
    "sweep": lambda: viz.sweep([0.1, 0.2], {NAMES[0]: [0.1, 0.2]}, fixed=0.1, title=NAMES[1]),
    "sweep map": lambda: viz.sweep_map(
        pd.DataFrame({"a": NAMES, "b": NAMES[::-1], "score": 1.0}), ["a", "b"], figure_name="score"
    ),
    "sweep bars": lambda: viz.sweep_map(
        pd.DataFrame({"a": NAMES, "score": 1.0}), ["a"], figure_name="score"
    ),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_names_are_no_formulas(kind):
    figure = FIGURES[kind]()
    try:
        figure.canvas.draw()  # which fails for a formula that is none
        texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
        assert texts and not any(text.get_parse_math() for text in texts)
    finally:
        plt.close(figure)


def test_notebooks_that_draw_have_the_setting():
    for path in Path(__file__).parents[1].glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        imported = re.search(r"^from wsss import .*\bviz\b", code, re.MULTILINE)
        assert imported or "matplotlib" not in code, path.name
