"""Tables in which names of classes, photos and lists are text, whatever they look like."""

import csv
import io
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest

from wsss.io import text
from wsss.lab.run import notebook

NAMES = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "a|b",
    "*a* **b** ***",
    "_a_ __b__ a_b _",
    "`a` ``b",
    "[a](javascript:alert(1))",
    "![a](x.png) [b][c]",
    "&lt;b&gt; &amp; &#60; AT&T & co",
    "~~a~~ ~",
    "a\\",
    "\\<i>\\|",
    "$a$ $$b$$",
    "<javascript:alert(1)>",
    "# a",
    "- a",
    "1. a",
    "caf\u00e9 \U0001f408",
]


class Cells(HTMLParser):
    """The texts of a page's table cells, and all tags inside them."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self._open = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("td", "th"):
            self.texts.append("")
            self._open = True
        elif self._open:
            self.tags.append(tag)

    def handle_endtag(self, tag):
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data):
        if self._open:
            self.texts[-1] += data


def test_names_are_text_in_the_page_of_an_executed_notebook(tmp_path):
    table = text.markdown_table(["class", *NAMES], [[name, *NAMES] for name in NAMES])
    shown = nbformat.v4.new_output("display_data", {"text/markdown": table})
    cells = [nbformat.v4.new_code_cell("display()", outputs=[shown])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "executed.ipynb")
    notebook.keep_notebook(tmp_path)
    cells = Cells((tmp_path / "executed.html").read_text(encoding="utf-8"))
    assert cells.texts == ["class", *NAMES, *(each for name in NAMES for each in [name, *NAMES])]
    assert cells.tags == []


def test_a_line_end_in_a_name_does_not_end_the_row():
    assert text.markdown_table(["a"], [["x\ny"]]).splitlines()[2:] == ["| x\\\\ny |"]


@pytest.mark.parametrize("name", ["cam_miou", "random_walk.beta", "[0.5, 1.0]", "val (8)", "a & b"])
def test_common_names_are_written_as_they_are(name):
    assert text.markdown_text(name) == name


def test_a_spreadsheet_computes_no_name():
    formulas = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"]
    plain = ["a=b", "cat", "", "a-b", "caf\u00e9"]
    frame = pd.DataFrame({"class": [*formulas, *plain, "\r=1\t"], "=1+1": -1.5, "whole": 3})
    header, *rows = csv.reader(io.StringIO(text.csv_table(frame), newline=""))
    assert header == ["class", "'=1+1", "whole"]
    assert [row[0] for row in rows] == [*(f"'{name}" for name in formulas), *plain, "\\r=1\\t"]
    assert {tuple(row[1:]) for row in rows} == {("-1.5", "3")}  # numbers stay numbers
