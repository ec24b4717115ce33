"""``wsss reproduce``: a stage run again from its record, in a folder of its own, and compared."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from wsss.errors import InputError
from wsss.lab import lineage, paths, plan, results, stages
from wsss.lab.record import delivery, journal, mlflow_store, provenance
from wsss.lab.run.notebook import run_stage

TIMINGS = ("images_per_second", "seconds")  # figures that no two runs share
MOST_LINES = 12  # differing figures or packages that are shown one by one


def reproduce(source, *, project, say=print):
    """Run a completed stage again with the parameters and inputs of its record, and compare.

    Args:
        source: the stage's folder, or the id of its MLflow run.
        project: the ``Project`` whose notebook it is.
        say: what is shown to people goes through it.

    Returns:
        whether all figures, files and weights are the same.

    Raises:
        InputError: no completed stage, or what it was made from is gone.
        StageFailed: it did not complete this time.
    """
    folder = find(source)
    record = results.completed_in(folder, str(source))
    item, reasons = _planned(folder, record, project)
    say(f"{item.name} of {folder}")
    for reason in reasons:
        say(f"differs: {reason}")
    root = paths.outputs_root() / "reproductions" / f"{item.name}-{folder.name}"
    shutil.rmtree(root, ignore_errors=True)
    with (
        _elsewhere(root, record),
        delivery.Uploader(say, register_model=project.register_model) as uploader,
    ):
        item.folder = paths.stage_folder(item.name, item.fingerprint)
        label = f"{item.name} again"
        tags = {"wsss.reproduces": delivery.run_of(folder) or str(folder)}
        experiment = journal.run_header(folder)[0] or "notebooks"
        run_stage(experiment, item, None, label, uploader, say, tags=tags)
    differences = compare(folder, item.folder) + project.compare_files(folder, item.folder)
    for line in differences[:MOST_LINES]:
        say(line)
    if len(differences) > MOST_LINES:
        say(f"and {len(differences) - MOST_LINES} more")
    if not differences:
        figures = sum(name not in TIMINGS for name in record["metrics"])
        files = sum(each["files"] for each in record["manifest"].values())
        weights = ", its weights" if (folder / "weights.pt").exists() else ""
        say(f"identical: {figures} figures, {files} files{weights}")
        shutil.rmtree(root)
        return True
    say(f"not identical; {why(reasons)} What came now is in {item.folder}")
    return False


def find(source):
    """The folder of a completed stage, from its path or the id of its MLflow run.

    Raises:
        InputError: neither.
    """
    if Path(source).is_dir():
        return Path(source).resolve()
    known = {}
    for path in paths.outputs_root().glob(f"*/*/{results.DELIVERED}"):
        known[delivery.run_of(path.parent)] = path.parent
    if source in known and results.completion(known[source]):
        return known[source]
    try:
        tags = mlflow_store.run_tags(str(source))
    except InputError:
        tags = {}
    children = [value for name, value in tags.items() if name.startswith("wsss.stage.")]
    if children:
        raise InputError(
            f"{source}: expected a stage's run, and this is an experiment's; its stages' runs are: "
            f"{', '.join(children)}"
        )
    raise InputError(
        f"{source}: expected the folder of a completed stage, or the id of its run with its files "
        f"under {paths.outputs_root()}; check it"
    )


def _planned(folder, record, project):
    """The stage to run, as a ``pipeline.Planned``, and what is not as it was then."""
    chain = stages.read_stages()
    if record["stage"] not in chain:
        raise InputError(f"{folder}: there is no stage '{record['stage']}' in notebooks/ any more")
    stage, values = chain[record["stage"]], dict(record["parameters"])
    reasons = []
    gone = [name for name in values if name not in stage.parameters]
    new = [name for name in stage.parameters if name not in values]
    values = {name: value for name, value in values.items() if name not in gone}
    if gone:
        reasons.append(f"the notebook lacks parameters that it had: {', '.join(gone)}")
    if new:
        reasons.append(f"the notebook has new parameters, at their defaults: {', '.join(new)}")
    upstream = {}
    for name, fingerprint in record["inputs"].items():
        place = paths.stage_folder(name, fingerprint).resolve()
        upstream[name] = results.completed_in(place, f"{folder}: {name}")["fingerprint"]
        values[f"{name}_run"] = str(place)
    values = stage.resolve(values)
    digest = project.data_digest(values)
    fingerprint = stage.fingerprint(values, upstream, digest)
    if digest != record["data_digest"]:
        reasons.append(f"the data's digest is {digest}, and was {record['data_digest']}")
    elif fingerprint != record["fingerprint"] and not reasons:
        files = lineage.changed_code(record, stage.code)
        reasons.append(
            f"code: {', '.join(files)}" if files else "the contents of a folder it was given"
        )
    if values.get("model_name"):  # a look back makes no new version in the registry
        values["model_name"] = ""
        fingerprint = stage.fingerprint(values, upstream, digest)
    return (
        plan.Planned(stage, values, fingerprint, None, False, {"reproduced": True}),
        reasons + _surroundings(folder),
    )


def _surroundings(folder):
    """What of code, packages and machine is not as it was at a stage's run."""
    then, now = journal.run_header(folder)[1], provenance.tags()
    reasons = []
    for tag, name in {
        "mlflow.source.git.commit": "the commit",
        "wsss.python": "Python",
        "wsss.device": "the machine",
    }.items():
        if then.get(tag) and then[tag] != now[tag]:
            reasons.append(f"{name} is {now[tag]}, and was {then[tag]}")
    before = _text(folder / "source" / "changes.diff")
    if before.strip() != provenance.changes().strip():
        reasons.append("changes to files that are in no commit")
    packages = {*_text(folder / "source" / "packages.txt").split()}
    if packages:
        others = sorted({*provenance.packages()} - packages, key=str.lower)
        gone = sorted(packages - {*provenance.packages()}, key=str.lower)
        if others or gone:
            shown = [*others[:MOST_LINES], *(["..."] if len(others) > MOST_LINES else [])]
            reasons.append(
                f"packages: now {', '.join(shown) or 'fewer'}, then {', '.join(gone[:MOST_LINES])}"
            )
    return reasons


def _text(path):
    return path.read_text() if path.exists() else ""


@contextmanager
def _elsewhere(root, record):
    """Have stages write under another folder, where those before this one seem to be too."""
    before, real = os.environ.get("WSSS_OUTPUTS"), paths.outputs_root().resolve()
    for path in real.glob(f"*/*/{results.COMPLETE}"):
        name = path.parent.parent.name
        if name != record["stage"]:
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / path.parent.name).symlink_to(path.parent, target_is_directory=True)
    os.environ["WSSS_OUTPUTS"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WSSS_OUTPUTS"]
        else:
            os.environ["WSSS_OUTPUTS"] = before


def compare(folder, other):
    """What differs between the results of two runs of a stage, a line each: figures to the last
    bit, bulk files by their contents.
    """
    then, now = results.completion(folder), results.completion(other)
    lines = []
    for name in sorted({*then["metrics"], *now["metrics"]} - {*TIMINGS}):
        values = [record["metrics"].get(name) for record in (then, now)]
        if json.dumps(values[0]) != json.dumps(values[1]):  # NaN is NaN
            lines.append(f"{name}: {values[1]}, and was {values[0]}")
    for name in sorted({*then["manifest"], *now["manifest"]}):
        if then["manifest"].get(name) != now["manifest"].get(name):
            lines.append(f"{name}/: files differ")
    return lines


def why(reasons):
    """Why results may differ, as a sentence."""
    if reasons:
        return "what differs above may be why."
    return (
        "nothing that the record tells differs: other numbers of threads, another processor, or a "
        "GPU without `deterministic` sum in another order."
    )
