"""The lab runs a project that has nothing to do with photos: numbers in a CSV file, their mean, a
plot.
"""

import dataclasses
import hashlib
import json
import sys

import nbformat
import pytest

from wsss.errors import InputError
from wsss.lab import lineage, paths, plan, results, stages
from wsss.lab.project import Project
from wsss.lab.record import delivery, find_runs, mlflow_store, stage_run
from wsss.lab.run import driver, reproduce
from wsss.lab.run.notebook import Machine
from wsss.runtime.progress import Screen

STATS = '''
"""Numbers and their mean."""

from hashlib import md5
from pathlib import Path


class Numbers:
    def __init__(self, path):
        self.path = Path(path)

    def digest(self):
        return md5(self.path.read_bytes()).hexdigest()

    def read(self):
        return [float(line) for line in self.path.read_text().split()]


def mean(numbers, power):
    return sum(number**power for number in numbers) / len(numbers)


def unused():
    return 1
'''
MEAN = [
    'csv: str = "numbers.csv"  # a number per line\npower: float = 1.0  # of each number',
    """
from toy.stats import Numbers, mean
from wsss.lab.record import stage_run
data = Numbers(csv)
run = stage_run.start("mean", globals(), dataset=data)
""",
    """
value = mean(data.read(), power)
(run.folder / "means").mkdir(exist_ok=True)
(run.folder / "means" / "mean.txt").write_text(str(value))
run.complete({"mean": value}, ["means"])
""",
]
PLOT = [
    'csv: str = "numbers.csv"  # a number per line\nmean_run: str = ""  # folder of the mean',
    """
import matplotlib.pyplot as plt
from toy.stats import Numbers
from wsss.lab.record import stage_run
data = Numbers(csv)
run = stage_run.start("plot", globals(), dataset=data)
value = float((run.inputs["mean"] / "means" / "mean.txt").read_text())
figure, axis = plt.subplots()
axis.plot(data.read())
axis.axhline(value)
run.log_figure(figure, "numbers")
run.complete({"distance": max(data.read()) - value})
""",
]
PYPROJECT = '[tool.wsss.stages]\npackage = "toy"\nversions = ["numpy"]\n'
EXPERIMENT = "name: toy\ndescription: A mean.\nstages: {mean: {}, plot: {}}\n"


def project(root):
    def digest(values):
        return hashlib.md5((root / values["csv"]).read_bytes()).hexdigest()

    return Project(data_digest=digest, scores={"mean": ("mean", "1 mean")})


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The toy project's folder, in whose name papermill could see a parameter."""
    tmp_path = tmp_path / "toy {csv}"
    tmp_path.mkdir()
    for name in ("notebooks", "toy", "experiments"):
        (tmp_path / name).mkdir()
    for name, (parameters, *cells) in {"10_mean": MEAN, "20_plot": PLOT}.items():
        tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        code = [nbformat.v4.new_code_cell(cell) for cell in cells]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=[tagged, *code], metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "toy" / "__init__.py").write_text("")
    (tmp_path / "toy" / "stats.py").write_text(STATS)
    (tmp_path / "experiments" / "toy.yaml").write_text(EXPERIMENT)
    (tmp_path / "numbers.csv").write_text("1\n2\n3\n6\n")
    repository = paths.project_root()
    monkeypatch.setenv("WSSS_PROJECT", str(tmp_path))
    monkeypatch.delenv("WSSS_OUTPUTS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{repository}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # its times of files are in whole seconds
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(root, *overrides, **options):
    experiment = plan.read_experiment(root / "experiments" / "toy.yaml")
    given = plan.parse_overrides(list(overrides))
    return plan.plan(experiment, given, project=project(root), **options)


def edit(root, old, new):
    path = root / "toy" / "stats.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def execute(root, monkeypatch):
    """Runs the stages that are not done in this process, without a kernel and without MLflow."""
    monkeypatch.setenv(stage_run.DRIVEN_VARIABLE, "1")
    monkeypatch.syspath_prepend(root)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def execute():
        for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
            del sys.modules[name]
        ran = []
        for item in planned(root):
            if not item.done:
                cells = {"mean": MEAN, "plot": PLOT}[item.name]
                namespace = dict(item.values)
                exec("\n".join(cells[1:]), namespace)
                namespace["run"].journal.end("FINISHED")
                ran.append(item.name)
        return ran

    return execute


def test_stages_run_once_and_again_where_code_data_or_parameters_change(root, execute):
    assert execute() == ["mean", "plot"] and execute() == []
    metrics = [results.completed(item.folder)["metrics"] for item in planned(root)]
    assert metrics == [{"mean": 3.0}, {"distance": 3.0}]
    edit(root, "return 1\n", "return 2\n")  # which nothing reaches
    edit(root, "def mean(numbers, power):", 'def mean(numbers, power):\n    """Of powers."""  # so')
    assert execute() == []
    edit(root, "/ len(numbers)", "/ len(numbers) + 1")
    assert [item.changed for item in planned(root)] == [("stats.py",), ()]
    assert execute() == ["mean", "plot"]
    assert results.completed(planned(root)[0].folder)["metrics"] == {"mean": 4.0}
    edit(root, "float(line)", "int(line)")  # of Numbers, which both notebooks use
    assert execute() == ["mean", "plot"]
    (root / "numbers.csv").write_text("1\n2\n")
    assert [item.changed for item in planned(root)] == [(), ()]
    assert execute() == ["mean", "plot"]


def test_folders_are_the_same_wherever_a_process_starts(root, monkeypatch):
    """A driver and its notebooks have different current folders."""
    monkeypatch.setenv("WSSS_OUTPUTS", "out/puts")
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    assert paths.outputs_root() == root / "out" / "puts"
    monkeypatch.setenv("WSSS_PROJECT", "..")
    project = paths.project_root()
    monkeypatch.chdir(root)
    assert project.is_absolute() and project.samefile(root)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
def test_a_path_that_no_file_can_have_is_refused(text, root):
    with pytest.raises(InputError, match=r"the path .* expected text but it contains"):
        paths.from_root(text)


def test_trusted_code_is_reused_unless_its_results_are_damaged(root, execute):
    execute()
    before = [item.folder for item in planned(root)]
    edit(root, "/ len(numbers)", "/ len(numbers) + 1")
    trusting = planned(root, trust_code=True)
    assert [item.folder for item in trusting] == before and all(item.done for item in trusting)
    assert [item.trusted for item in trusting] == [True, False]  # the plot's own code is the same
    forced = planned(root, trust_code=True, force=True)
    assert not any(item.done or item.trusted for item in forced)
    assert not any(item.done for item in planned(root, "mean.power=2", trust_code=True))
    (before[0] / "means" / "mean.txt").unlink()
    assert not planned(root, trust_code=True)[0].done


def test_a_part_of_a_plan_needs_the_stages_before_it(root, execute):
    with pytest.raises(InputError, match="--only plot: these stages before it are not done: mean"):
        planned(root, only="plot")
    with pytest.raises(InputError, match="--from plot: these stages before it are not done: mean"):
        planned(root, start="plot")
    with pytest.raises(InputError, match="unknown stage 'walk'; this experiment has: mean, plot"):
        planned(root, "walk.beta=4")
    assert [item.name for item in planned(root, until="mean")] == ["mean"]
    execute()
    assert [item.done for item in planned(root, only="plot", force=True)] == [True, False]
    assert [item.done for item in planned(root, start="plot", force=True)] == [True, False]
    assert [item.done for item in planned(root, force=True)] == [False, False]
    folder = planned(root)[0].folder
    assert planned(root, f"plot.mean_run={folder}", "mean.power=2")[1].done


def test_a_run_is_named_in_a_parameter_and_in_a_notebook(root, execute):
    execute()
    mean, plot = planned(root)
    named = dataclasses.replace(project(root), find_run=find_runs.find)
    experiment = plan.read_experiment(root / "experiments" / "toy.yaml")
    for given in (mean.folder.name[:5], "latest", f"outputs/mean/{mean.folder.name}"):
        overrides = plan.parse_overrides([f"plot.mean_run={given}"])
        _, item = plan.plan(experiment, overrides, project=named)
        assert item.done and item.folder == plot.folder
        assert item.values["mean_run"] == str(mean.folder)
        namespace = item.values | {"mean_run": given}
        exec("\n".join(PLOT[1:]), namespace)
        assert namespace["run"].inputs == {"mean": mean.folder}
    overrides = plan.parse_overrides(["plot.mean_run=mena"])
    with pytest.raises(InputError, match=r"^mena: expected one completed mean .* ago"):
        plan.plan(experiment, overrides, project=named)


def test_a_part_of_a_plan_lies_before_its_end(root):
    for option in ("start", "only"):
        word = {"start": "--from", "only": "--only"}[option]
        for force in (False, True):
            with pytest.raises(InputError, match=f"^{word} plot: comes after --until mean; leave"):
                planned(root, until="mean", force=force, **{option: "plot"})
    assert planned(root, only="mean", until="mean")[0].name == "mean"


def test_other_versions_of_packages_are_reported_when_results_are_reused(root, execute):
    execute()
    folders = [item.folder for item in planned(root)]
    assert driver.provenance.other_versions(folders) == ""
    path = folders[0] / results.COMPLETE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"versions": {"numpy": "1.0"}}))
    line = driver.provenance.other_versions(folders)
    assert line.startswith("reused results were computed with numpy 1.0 (now ")


def test_runs_are_found_by_question_seed_and_data(root, execute):
    execute()
    (folder, record), *others = lineage.completed_runs(paths.outputs_root() / "mean")
    assert not others and record["fingerprint"] == folder.name
    assert find_runs.find("latest", "mean", data_digest=record["data_digest"]) == folder
    assert lineage.answered("mean", record["question"]) == record
    assert lineage.answered("mean", "another") is None
    assert lineage.changed_code(record, record["code"]) == []
    code = {"cells": "x", "other.py": "y"}
    assert lineage.changed_code(record, code) == ["notebook", "other.py", "stats.py"]
    assert [*stages.read_stages()] == ["mean", "plot"]


@pytest.mark.slow
def test_a_toy_experiment_is_planned_run_recorded_reused_and_reproduced(root):
    def run(**options):
        lines = []
        experiment = plan.read_experiment(root / "experiments" / "toy.yaml")
        machine = Machine(Screen(say=lines.append))
        driver.run(experiment, planned(root, **options), project=project(root), machine=machine)
        return lines

    assert sum("done in" in line for line in run()) == 2
    mean, plot = planned(root)
    assert mean.done and results.completed(mean.folder)["metrics"] == {"mean": 3.0}
    assert (plot.folder / "figures" / "numbers.png").exists()
    client = mlflow_store.client()
    assert (root / "mlflow.db").exists()
    runs = client.search_runs([mlflow_store.experiment_id("toy")])
    assert {each.info.status for each in runs} == {"FINISHED"} and len(runs) == 3
    (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.data.metrics["mean.mean"] == 3 and parent.data.metrics["plot.distance"] == 3
    child = client.get_run(delivery.run_of(mean.folder))
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"csv": "numbers.csv", "power": "1.0"}

    assert run() == ["toy: all 2 stages are done; nothing to do"]
    edit(root, "def mean(numbers, power):", 'def mean(numbers, power):\n    """Of powers."""')
    assert run() == ["toy: all 2 stages are done; nothing to do"]

    edit(root, "/ len(numbers)", "/ len(numbers) + 1")
    lines = run(trust_code=True)
    assert lines == [
        "mean: code changed: stats.py; reused as --trust-code asks",
        "toy: all 2 stages are done; nothing to do",
    ]
    assert client.get_run(child.info.run_id).data.tags[driver.TRUSTED] == "stats.py"
    lines = run()
    assert "mean: code changed: stats.py" in lines
    assert sum("done in" in line for line in lines) == 2
    mean, _ = planned(root)
    assert results.completed(mean.folder)["metrics"] == {"mean": 4.0}

    lines = []
    assert reproduce.reproduce(mean.folder, project=project(root), say=lines.append)
    assert lines[-1] == "identical: 1 metrics, 1 files"
    edit(root, "+ 1", "+ 2")
    lines = []
    assert not reproduce.reproduce(mean.folder, project=project(root), say=lines.append)
    assert "differs: code: stats.py" in lines and "mean: 5.0, and was 4.0" in lines
