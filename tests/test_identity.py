"""Equal contents or nothing: what ``identity`` does at random, a little of it, and its parts."""

import random

import pytest

from tests import identity
from wsss.errors import InputError
from wsss.lab import lineage
from wsss.lab.record import stage_run


@pytest.mark.parametrize("layout", ["voc", "folder"])
def test_random_changes_make_no_stale_figure_and_no_needless_run(tmp_path, layout):
    random.seed(layout)
    identity.check(tmp_path, layout, changes=15)


@pytest.fixture
def chain(tmp_path):
    random.seed(0)
    chain = identity.Chain(tmp_path, "folder")
    with identity.surroundings(tmp_path):
        yield chain


def run(chain):
    """Run the chain; returns the folders of its stages by name."""
    chain.reads()
    outputs = chain.root / "outputs"
    identity.run(chain, outputs)
    return {item.name: item.folder for item in identity.planned(chain, outputs)}


def test_siblings_differ_in_seeds_alone(chain):
    first = run(chain)
    chain.parameters["learn.seed"] = 1
    second = run(chain)
    for name in ("learn", "see", "walk"):
        assert lineage.siblings(second[name]) == [first[name], second[name]]
    chain.parameters["walk.beta"] = 1
    other = run(chain)
    assert lineage.siblings(other["walk"]) == [other["walk"]]
    assert lineage.siblings(other["see"]) == [first["see"], second["see"]]


STEP = identity.CODE["learning"].replace("STEP = 0", "STEP = 5")


@pytest.mark.parametrize("name, text", [("toy/learning.py", STEP), ("weights.bin", "5")])
def test_runs_of_other_code_or_contents_are_no_siblings(chain, name, text):
    run(chain)
    chain.parameters["learn.seed"] = 1
    chain.write(name, text)
    second = run(chain)
    for stage in ("learn", "see"):
        assert lineage.siblings(second[stage]) == [second[stage]]


def test_results_of_other_data_are_refused(chain):
    maps, network = (run(chain)[name] for name in ("see", "learn"))
    mask = chain.path("mask", "a1")
    before = mask.read_bytes()
    while mask.read_bytes() == before:
        chain.paint_mask("a1")
    outputs = chain.root / "outputs"
    given = {"walk": {"see_run": str(maps)}}
    with pytest.raises(InputError, match=r"walk\.see_run: expected a run on this data"):
        identity.planned(chain, outputs, given)
    with pytest.raises(InputError, match=r"expected a completed see but .* is a learn"):
        identity.planned(chain, outputs, {"walk": {"see_run": str(network)}})
    chain.change_photo()  # a network may be of other photos
    assert identity.planned(chain, outputs, {"see": {"learn_run": str(network)}})


def test_photos_that_change_while_a_stage_runs_leave_no_results(chain, monkeypatch):
    folder = run(chain)["learn"]
    chain.change_photo()
    began = identity.planned(chain, chain.root / "outputs")[0].folder
    complete = stage_run.StageRun.complete

    def edited_meanwhile(run, *given):
        chain.paint(chain.photos[0])
        complete(run, *given)

    monkeypatch.setattr(stage_run.StageRun, "complete", edited_meanwhile)
    with pytest.raises(InputError, match="learn: the data changed while it ran"):
        run(chain)
    assert (folder / "complete.json").exists()
    assert not list(began.glob("*.txt")) and not (began / "complete.json").exists()
