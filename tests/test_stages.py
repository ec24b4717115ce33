"""The parameters cell is the schema: types, names, and what a fingerprint depends on."""

import json
import re

import pytest

from wsss import datasets, models
from wsss.errors import InputError
from wsss.io import contents
from wsss.io.locks import acquire, held, lock_of
from wsss.lab import paths, results, stages
from wsss.lab.record import find_runs, stage_run
from wsss.lab.stages import Stage
from wsss.train.labels import RegionFolder
from wsss.train.loop import Schedule
from wsss.train.optimisers import build_optimiser


def notebook(folder, parameters, code="x = 1", prose="# Title"):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": prose},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters},
        {"cell_type": "code", "metadata": {}, "source": code},
    ]
    path = folder / "10_walk.ipynb"
    path.write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    return Stage("walk", path)


SCHEMA = """beta: float = 8.0  # sharpness
steps: int = 256  # t
flip: bool = True  # mirror
name: str = "a"  # of it
scales: list[float] = [1.0, 2.0]  # factors"""


def test_schema_gives_names_types_defaults_and_comments(tmp_path):
    parameters = notebook(tmp_path, SCHEMA).parameters
    assert {n: (p.type, p.default, p.comment) for n, p in parameters.items()} == {
        "beta": ("float", 8.0, "sharpness"),
        "steps": ("int", 256, "t"),
        "flip": ("bool", True, "mirror"),
        "name": ("str", "a", "of it"),
        "scales": ("list[float]", [1.0, 2.0], "factors"),
    }


def test_values_are_checked_and_whole_numbers_may_stand_for_floats(tmp_path):
    values = notebook(tmp_path, SCHEMA).resolve({"beta": 4, "scales": [1, 0.5]})
    assert values["beta"] == 4.0 and isinstance(values["beta"], float)
    assert values["steps"] == 256 and values["scales"] == [1, 0.5]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"bta": 4},
            r"walk\.bta: no such parameter \(did you mean 'beta'\?\); 10_walk.ipynb has: beta, s",
        ),
        ({"beta": "four"}, r"walk\.beta: expected float but got 'four' \(str\); beta: sharpness"),
        ({"steps": 2.5}, r"walk\.steps: expected int"),
        ({"steps": True}, r"walk\.steps: expected int"),
        ({"flip": 1}, r"walk\.flip: expected bool"),
        ({"name": 3}, r"walk\.name: expected str"),
        ({"scales": 2.0}, r"walk\.scales: expected list"),
        ({"scales": ["a"]}, r"walk\.scales: expected list"),
    ],
)
def test_wrong_names_and_types_are_refused(tmp_path, given, reason):
    with pytest.raises(InputError, match=reason):
        notebook(tmp_path, SCHEMA).resolve(given)


RANGES = """rate: float = 1.0  # of it (0, 2]
count: int = 1  # of them [1, inf)
scales: list[float] = [1.0]  # factors (0, 4]
more: list[int] = []  # empty: none (note) [2, 3]
kind: str = "a"  # which one {a, b c}
stride: int = 8  # pixels {0, 8}
free: float = 0.0  # of any size (paper, ours)"""


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 2, "count": 10**9, "scales": [4.0, 0.1], "more": [2, 3], "stride": 0},
        {"rate": 5e-324, "count": 1, "kind": "b c", "free": -1e300},
    ],
)
def test_values_at_the_ends_of_a_range_are_taken(tmp_path, given):
    assert given.items() <= notebook(tmp_path, RANGES).resolve(given).items()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rate": 0.0}, r"walk\.rate: expected a value in \(0, 2\] but got 0.0; rate: of it"),
        ({"rate": 2.1}, r"in \(0, 2\] but got 2.1"),
        ({"rate": float("nan")}, r"in \(0, 2\] but got nan"),
        ({"count": 0}, r"walk\.count: expected a value in \[1, inf\) but got 0; count: of them"),
        ({"scales": [1.0, 0.0]}, r"in \(0, 4\] but got 0.0"),
        ({"scales": []}, r"walk\.scales: expected at least one value but got an empty list"),
        ({"more": [2, 4]}, r"in \[2, 3\] but got 4"),
        ({"kind": "c"}, r"in \{a, b c\} but got 'c'; kind"),
        ({"kind": "bc"}, r"in \{a, b c\} but got 'bc' \(did you mean 'b c'\?\); kind"),
        ({"stride": 16}, r"in \{0, 8\} but got 16"),
        ({"free": float("inf")}, r"walk\.free: expected a finite number but got inf"),
    ],
)
def test_values_outside_their_range_are_refused(tmp_path, given, reason):
    with pytest.raises(InputError, match=reason):
        notebook(tmp_path, RANGES).resolve(given)


def past(values):
    """Values at both ends of an interval, and next to them outside, by a reading of its own."""
    low, high = (float(end) for end in values[1:-1].split(", "))
    at = {end: values[place] in "[]" for end, place in ((low, 0), (high, -1)) if end < 1e300}
    inside = {end for end, included in at.items() if included}
    beyond = {low - 1} | ({high + 1} if high in at else set()) | (set(at) - inside)
    return inside, beyond


@pytest.mark.parametrize("path", sorted(paths.project_root().glob("notebooks/*.ipynb")))
def test_every_parameter_is_taken_to_and_past_both_ends(path):
    name, stage = path.stem, Stage(path.stem, path)
    for parameter in stage.parameters.values():
        kind = int if "int" in parameter.type else float
        if parameter.type.startswith(("bool", "str")) and not parameter.values:
            continue
        assert parameter.values, f"{name}.{parameter.name} says nothing of the values it takes"
        if parameter.values.startswith("{"):
            choices = parameter.values[1:-1].split(", ")
            inside, beyond = {type(parameter.default)(each) for each in choices}, {"other", 77}
            beyond = {each for each in beyond if isinstance(each, type(parameter.default))}
        else:
            inside, beyond = ({kind(each) for each in part} for part in past(parameter.values))
        wrap = (lambda x: [x]) if parameter.type.startswith("list") else lambda x: x
        for value in inside:
            assert stage.resolve({parameter.name: wrap(value)})[parameter.name] == wrap(value)
        for value in beyond | (
            {float("nan"), float("inf")} if "float" in parameter.type else set()
        ):
            with pytest.raises(InputError, match=rf"{parameter.name}: expected a value in"):
                stage.resolve({parameter.name: wrap(value)})
        if parameter.type.startswith("list") and parameter.default:
            with pytest.raises(InputError, match="expected at least one value"):
                stage.resolve({parameter.name: []})


def test_a_notebook_run_by_hand_refuses_too(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path))
    stage = stages.read_stages()["random_walk"]
    cell = {name: parameter.default for name, parameter in stage.parameters.items()}
    with pytest.raises(InputError, match=r"random_walk\.beta: expected a value in \(0, inf\)"):
        stage_run.start("random_walk", cell | {"beta": 0.0}, dataset=None)
    assert not list(tmp_path.iterdir())


def known(refused):
    """The choices that the code names when it refuses another."""
    with pytest.raises(InputError) as fault:
        refused()
    return sorted(re.split(r"one of:? ", str(fault.value))[1].split(", "))


def test_choices_are_those_that_the_code_knows(tmp_path):
    network = models.build_cam("small", 1)
    choices = {
        "backbone": known(lambda: models.build_cam("none", 1)),
        "dataset": known(lambda: datasets.open("none", tmp_path)),
        "optimiser": known(lambda: build_optimiser(network, Schedule(optimiser="none"))),
        "cell_labels": known(lambda: RegionFolder(None, tmp_path, how="none")),
    }
    for stage in stages.read_stages().values():
        for name in choices.keys() & stage.parameters.keys():
            declared = stage.parameters[name].values.strip("{}").split(", ")
            assert sorted(declared) == choices[name], name


def test_untyped_parameters_are_refused(tmp_path):
    with pytest.raises(InputError, match="line 1: expected 'name: type = default"):
        notebook(tmp_path, "beta = 8").parameters  # noqa: B018


def spoilt(change):
    """A notebook's file after a change to its content."""
    content = {
        "cells": [
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["beta: int = 1"]}
        ],
        **{"metadata": {}, "nbformat": 4, "nbformat_minor": 5},
    }
    change(content)
    return json.dumps(content, indent=1).encode()


WHOLE = spoilt(lambda content: None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a notebook of nbformat 4 but met JSONDecodeError"),
        (WHOLE[:-9], "but met JSONDecodeError"),
        (b"[1]", "but met TypeError"),
        (b"[" * 100_000, "but met RecursionError"),
        (b"<<<<<<< HEAD\n" + WHOLE, "has conflict markers of git; finish the merge"),
        (WHOLE.replace(b"beta", b"<<<<<<< ours\\nbeta"), "has conflict markers of git"),
        (WHOLE.replace(b"beta", "b\xe4ta".encode("latin-1")), "in UTF-8 but it is not valid UTF-8"),
        (WHOLE.decode().encode("utf-16"), "in UTF-8 but it is not valid UTF-8"),
        (spoilt(lambda x: x.update(worksheets=[{"cells": x.pop("cells")}])), "KeyError: 'cells'"),
        (spoilt(lambda x: x.pop("metadata")), "met KeyError: 'metadata'"),
        (spoilt(lambda x: x["cells"][0].pop("metadata")), "met KeyError: 'metadata'"),
        (spoilt(lambda x: x["cells"][0].update(source=[1])), "met TypeError"),
        (spoilt(lambda x: x.update(cells=[])), "expected one cell tagged 'parameters', found 0"),
    ],
)
def test_a_file_that_is_no_notebook_is_one_line_with_its_name(tmp_path, content, reason):
    path = tmp_path / "10_walk.ipynb"
    path.write_bytes(WHOLE)
    assert Stage("walk", path).parameters["beta"].default == 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(reason)) as fault:
        Stage("walk", path).parameters  # noqa: B018
    assert str(fault.value).startswith(f"{path}: ") and ";" in str(fault.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("beta: float = 2 ** 3", "line 2: expected 'name: type = default"),
        ("beta: float", "line 2: expected"),
        ("beta: float = other", "line 2: expected"),
        ("beta: dict = {}", "a type of int, float"),
        ("beta = 8", "line 2: expected"),
        ("beta: float = (", "line 2: expected 'name: type = default"),
        ("beta: list[float] = [{}, {[]}]", "line 2: expected"),
        ("first: int = 2", "each name once"),
        (
            'flip: bool = "yes"  # mirror',
            r"flip: expected bool but got 'yes' \(str\); flip: mi",
        ),
        ("rate: float = 3.0  # of it (0, 2]", r"rate: expected a value in \(0, 2\] but got 3.0"),
    ],
)
def test_a_default_that_cannot_be_taken_is_one_line_with_its_notebook(tmp_path, line, reason):
    stage = notebook(tmp_path, f"first: int = 1  # of them\n{line}")
    with pytest.raises(InputError, match=reason) as fault:
        stage.parameters  # noqa: B018
    assert str(fault.value).startswith(f"{stage.path}: ")


def test_a_notebook_that_is_run_again_takes_the_place_of_its_earlier_self(tmp_path, monkeypatch):
    """As after an interrupt in JupyterLab; another process (here another lock of the file) waits,
    until the second is complete.
    """
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path))
    monkeypatch.setenv(stage_run.DRIVEN_VARIABLE, "1")
    monkeypatch.setattr(stage_run, "LOCK_SECONDS", 0)
    folder = tmp_path / "walk" / "0123456789ab"
    given = {"inputs": {}, "folder": folder, "data_digest": "d"}
    first = stage_run.StageRun("walk", {}, **given)
    second = stage_run.StageRun("walk", {}, **given)
    assert not acquire(lock_of(folder), 0)
    second.complete()
    with held(folder, "work") as mine:
        assert mine
        with pytest.raises(InputError, match="another process works on the same walk"):
            stage_run.StageRun("walk", {}, **given)
    assert first.folder == second.folder  # which kept the first alive till here


def test_fingerprint_follows_code_values_upstream_and_data_but_not_prose_or_place(tmp_path):
    def made(*, code="x = 1", prose="# T", beta=8.0, upstream="u", data="d", place="/a", extra=""):
        stage = notebook(
            tmp_path,
            "beta: float = 8.0  # b\ncam_run: str = ''  # folder\nmore_folder: str = ''  # f",
            code,
            prose,
        )
        values = {"beta": beta, "cam_run": place, "more_folder": extra}
        return stage.fingerprint(stage.question(values, {"cam": upstream}, data_digest=data))

    base = made()
    assert made(prose="# Another") == made(place="/b") == base
    assert len({base, made(code="x = 2"), made(beta=4.0), made(upstream="v"), made(data="e")}) == 5
    for folder, text in (("1", "x"), ("2", "x"), ("3", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_text(text)
    one, two, three = (made(extra=str(tmp_path / folder)) for folder in "123")
    assert one == two and len({base, one, three}) == 3, "a folder's contents count, not its place"
    with pytest.raises(InputError, match="expected a folder but there is none"):
        made(extra=str(tmp_path / "4"))


def test_a_stage_may_do_without_another():
    stage = stages.read_stages()["train_segmentation"]
    values = stage.resolve({"random_walk_run": "none"})
    assert list(stages.upstream_of(stage, stages.read_stages(), values=values)) == ["train_cam_run"]


def test_the_real_chain_is_connected():
    chain = stages.read_stages()
    assert next(iter(chain)) == "dataset" and list(chain)[-1] == "report"
    order = list(chain)
    for name, stage in chain.items():
        for other in stages.upstream_of(stage, chain, values=stage.resolve({})).values():
            assert order.index(other) < order.index(name)
        assert all(parameter.comment for parameter in stage.parameters.values())


def test_latest_finds_the_newest_completed_run_on_the_same_data(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path))
    with pytest.raises(InputError, match=r"one completed train_cam on this data .* there are none"):
        find_runs.find("latest", "train_cam", data_digest="d1")
    for name, digest, ended in [("a", "d1", 1), ("b", "d1", 3), ("c", "d2", 5)]:
        folder = tmp_path / "train_cam" / name
        folder.mkdir(parents=True)
        record = {
            **{"stage": "train_cam", "fingerprint": name, "data_digest": digest, "metrics": {}},
            **{"parameters": {}, "inputs": {}, "ended": ended},
        }
        (folder / "complete.json").write_text(json.dumps(record))
    (tmp_path / "train_cam" / "unfinished").mkdir()
    assert find_runs.find("latest", "train_cam", data_digest="d1").name == "b"


def test_what_is_missing_cut_or_zeroed_keeps_a_stage_from_being_used(tmp_path):
    record = {
        **{"stage": "toy", "fingerprint": "0a", "data_digest": "d", "metrics": {}},
        **{"parameters": {}, "inputs": {}, "ended": 1.0},
    }
    (tmp_path / "cams").mkdir()
    for name in ("a.txt", "cams/b.txt", "papermill.log", ".progress"):
        (tmp_path / name).write_text("whole")
    files = results.files(tmp_path)
    (tmp_path / results.CONTENTS).write_text(json.dumps(files))
    whole = json.dumps(record | {"inventory": contents.manifest(files)})
    (tmp_path / results.COMPLETE).write_text(whole)
    assert results.damage(tmp_path) == "" and results.completion(tmp_path)
    for name in ("papermill.log", ".progress", "executed.html"):  # beside the results
        (tmp_path / name).write_text("more and more")
    assert results.damage(tmp_path) == ""
    for name in ("a.txt", "cams/b.txt"):
        for text in ("who", "WHOLE"):  # cut short, or of the same size
            (tmp_path / name).write_text(text)
            assert results.changed(tmp_path) == [name]
        (tmp_path / name).unlink()
        assert results.damage(tmp_path).startswith(f"{name} changed, appeared or went missing")
        with pytest.raises(
            InputError, match=rf"^here: .* holds no completed stage \({name} changed"
        ):
            results.completed_in(tmp_path, "here")
        (tmp_path / name).write_text("whole")
        assert results.damage(tmp_path) == ""
    (tmp_path / "new.png").write_text("")
    assert results.changed(tmp_path) == ["new.png"]
    (tmp_path / results.CONTENTS).write_text(json.dumps(files)[:-5])
    assert results.changed(tmp_path) == [results.CONTENTS]
    for content in (whole[:-9], "", "\0" * len(whole), "[1]", whole.replace("inputs", "outputs")):
        (tmp_path / results.COMPLETE).write_text(content)
        assert results.completion(tmp_path) is None
        assert "complete.json is cut" in results.damage(tmp_path)
