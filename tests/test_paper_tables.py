"""The paper's tables: scores over seeds and drawn photos, rows, marks, and the three ways they are
written.
"""

import json
import re
from importlib import resources

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from wsss.datasets.voc import VOC_CLASSES
from wsss.errors import InputError
from wsss.io import atomic
from wsss.photos.evaluation import Confusions
from wsss.report import paper_tables


def confusions(seed, photos=7, classes=3):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, (photos, classes, classes))
    counts[:, 2] *= random.random((photos, 1)) < 0.4  # a class that few photos show
    ids = [f"p{n}" for n in range(photos)]
    flat = sparse.csr_array(counts.reshape(photos, -1))
    return f"run{seed}", Confusions(classes, ids=ids, counts=flat)


def dense(confusions):
    """Counts (photos, C, C)."""
    square = (confusions.num_classes,) * 2
    return confusions.counts.toarray().reshape(-1, *square)


def slow_miou(counts):
    ious = []
    for k in range(counts.shape[-1]):
        hit = counts[k, k]
        union = counts[k].sum() + counts[:, k].sum() - hit
        if union:
            ious.append(hit / union)
    return 100 * sum(ious) / len(ious)


def test_a_score_is_the_mean_over_seeds_of_the_miou_over_all_photos():
    runs = [confusions(seed) for seed in range(3)]
    found = paper_tables.score(runs)
    each = [slow_miou(dense(counted).sum(0)) for _, counted in runs]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.spread == pytest.approx(np.std(each, ddof=1))
    assert found.photos == 7 and found.runs == ("run0", "run1", "run2")
    assert np.isnan(paper_tables.score(runs[:1]).spread)


def test_the_interval_is_that_of_photos_drawn_with_replacement():
    runs = [confusions(seed, photos=30) for seed in range(2)]
    found = paper_tables.score(runs, draws=4000)
    random = np.random.default_rng(99)  # other draws: equal but for chance
    drawn, each = [], [dense(counted) for _, counted in runs]
    for _ in range(2000):
        chosen = random.integers(0, 30, 30)
        drawn.append(np.mean([slow_miou(counts[chosen].sum(0)) for counts in each]))
    expected = np.percentile(drawn, [2.5, 97.5])
    width = expected[1] - expected[0]
    assert width > 1 and found.low < found.mean < found.high
    assert [found.low, found.high] == pytest.approx(expected, abs=0.1 * width)


def test_runs_over_other_photos_are_not_averaged():
    name, counted = confusions(1)
    turned = Confusions(3, ids=counted.ids[::-1], counts=counted.counts)
    with pytest.raises(InputError, match="runs run0, run1 scored different photos"):
        paper_tables.score([confusions(0), (name, turned)])


def found(classes):
    runs = [confusions(seed, classes=classes) for seed in range(2)]
    return {name: paper_tables.score(runs) for name in ("CAM", "CAM+RW", "CAM+RW+dCRF", "network")}


def test_tables_hold_every_published_row_with_its_mark_and_ours_with_its_runs():
    scores = found(21)
    made = paper_tables.paper(
        scores, backbone="resnet38", classes=VOC_CLASSES, score_on="voc train", val_on="voc val"
    )
    published = json.loads(resources.files("wsss.report").joinpath("published.json").read_text())
    sources = {name: rows for name, rows in published.items() if name.startswith("table")}
    assert set(made) == set(sources) == set(paper_tables.TITLES)
    for name, entries in sources.items():
        theirs = made[name][made[name]["mark"] != "ours"]
        assert list(theirs["mark"]) == [entry["mark"] for entry in entries]
        ours = made[name][made[name]["mark"] == "ours"]
        assert len(ours) == (3 if name == "table1" else 1)
        assert set(ours["runs"]) == {"run0 run1"}
    first = made["table1"].set_index("labels")
    assert first.loc["SPN", "mIoU"] == 43.8 and first.loc["SPN", "mark"] == "recalled"
    walk = made["table1"].query("mark == 'ours' and labels == 'CAM+RW'").iloc[0]
    assert walk["mIoU"] == scores["CAM+RW"].mean and walk["data"] == "voc train (7)"
    second = made["table2"]
    assert list(second.columns[2:23]) == ["background", *VOC_CLASSES]
    np.testing.assert_allclose(
        second.query("mark == 'ours'").iloc[0, 2:23].astype(float), scores["network"].classes
    )
    row = second.iloc[1]
    assert row["mean"] == pytest.approx(61.7, abs=0.1)  # as its 21 figures say
    assert made["table4"].iloc[-1]["supervision"] == "image labels"


def test_no_published_score_stands_beside_other_classes_than_vocs():
    made = paper_tables.paper(
        found(3), backbone="small", classes=["a", "b"], score_on="train", val_on="val"
    )
    assert list(made) == ["table1", "table2"]
    assert {mark for table in made.values() for mark in table["mark"]} == {"ours"}
    assert {"background", "a", "b"} < set(made["table2"].columns)


def test_tables_are_written_as_markdown_latex_and_csv(tmp_path):
    made = paper_tables.paper(
        found(21), backbone="mobilenet_v2", classes=VOC_CLASSES, score_on="train", val_on="val"
    )
    paths = paper_tables.write(made, tmp_path / "tables")
    assert {p.name for p in paths} == {
        f"table{n}.{kind}" for n in range(1, 5) for kind in ("md", "tex", "csv")
    }
    again = pd.read_csv(tmp_path / "tables" / "table1.csv")
    np.testing.assert_allclose(again["mIoU"], made["table1"]["mIoU"])
    text = (tmp_path / "tables" / "table1.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(made["table1"]) and len({line.count("|") for line in lines}) == 1
    assert "| CAM | paper | VOC 2012 train (1464) | 48.0 |" in text and "nan" not in text
    tex = (tmp_path / "tables" / "table4.tex").read_text()
    assert r"\toprule" in tex and r"ours, mobilenet\_v2" in tex and r"95 \% interval" in tex
    rows = re.findall(r"\\\\", tex)
    assert len(rows) == 1 + len(made["table4"])


def completed(root, stage, fingerprint, inputs, *, ended=0, **parameters):
    record = {
        **{"stage": stage, "fingerprint": fingerprint, "parameters": parameters},
        **{"inputs": inputs, "data_digest": "d", "metrics": {}, "ended": ended},
    }
    atomic.save_json(root / stage / fingerprint / "complete.json", record)
    return root / stage / fingerprint
