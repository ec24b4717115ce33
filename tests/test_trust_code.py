"""Results that other code computed: repeated by default with the reason, reused and marked where
the code is trusted; other versions of packages are reported.
"""

import pytest

from wsss.cli.project import PROJECT
from wsss.io import atomic
from wsss.lab import paths, plan, results
from wsss.lab.record import journal, provenance, stage_run
from wsss.lab.run import driver


@pytest.fixture
def planned(tmp_path, tiny_shapes, monkeypatch):
    """Plans the built-in experiment, whose first stage was completed by other code: its folder."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv(stage_run.DRIVEN_VARIABLE, "1")
    experiment = plan.read_experiment(paths.project_root() / "experiments" / "shapes.yaml")

    def make(**options):
        given = {"common": {"data_root": str(tiny_shapes)}}
        return plan.plan(experiment, given, project=PROJECT, **options)

    item = make()[0]
    old = item.folder.with_name("0123456789ab")
    journal.Journal(old).begin("e", item.name, tags={})
    digest = PROJECT.data_digest(item.values)
    run = stage_run.StageRun(item.name, item.values, inputs={}, folder=old, data_digest=digest)
    run.complete()
    record = results.completion(old)
    question = item.stage.question(item.values, {}, data_digest=digest)
    record |= {"question": question, "code": item.stage.code | {"datasets/voc.py": "another"}}
    atomic.save_json(old / results.COMPLETE, record)
    return make, old


def test_results_of_other_code_are_computed_again(planned):
    make, old = planned
    item = make()[0]
    assert not item.done and item.folder != old
    assert item.changed == ("datasets/voc.py",)


def test_trusted_code_reuses_them_and_marks_the_run(planned):
    make, old = planned
    items, printed = make(trust_code=True), []
    assert items[0].done and items[0].trusted and items[0].folder == old
    assert not any(item.done or item.trusted for item in items[1:])
    driver._mark_trusted(items, printed.append)
    assert printed == ["dataset: code changed: datasets/voc.py; reused as --trust-code asks"]
    tags = [entry["values"] for entry, _ in journal.entries(old) if entry["kind"] == "tags"]
    assert {driver.TRUSTED: "datasets/voc.py"} in tags


def test_other_versions_of_packages_are_one_line(planned):
    _, old = planned
    assert provenance.other_versions([old]) == ""
    record = results.completion(old)
    assert set(record["versions"]) == {"torch", "numpy", "pydensecrf2"}
    record["versions"]["numpy"] = "1.0"
    atomic.save_json(old / results.COMPLETE, record)
    line = provenance.other_versions([old])
    assert "numpy 1.0 (now " in line and "\n" not in line
