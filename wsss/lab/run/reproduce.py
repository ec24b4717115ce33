"""Run a completed stage again from its record, in another folder, and compare."""

import json
import shutil
from pathlib import Path

from wsss.errors import InputError
from wsss.lab import lineage, paths, plan, results, stages
from wsss.lab.project import Project, Say
from wsss.lab.record import delivery, find_runs, provenance, stage_run
from wsss.lab.record.journal import Journal, beginning
from wsss.lab.run.notebook import Machine, run_stage
from wsss.runtime.progress import Screen

TIMINGS = ("images_per_second", "seconds")  # metrics that differ between any two runs
MOST_LINES = 12  # differences or packages that are listed
UNEXPLAINED = (
    "no recorded difference explains it: another number of threads, another processor, or a GPU "
    "without `deterministic` sums in another order"
)


def reproduce(source: str | Path, *, project: Project, say: Say = print) -> bool:
    """Run a completed stage (named as for ``find_runs.find``) again with the parameters and
    inputs of its record; returns whether all metrics, files and weights are identical. InputError
    for no completed stage, or if one of its inputs is gone; StageFailed as of ``run_stage``.
    """
    folder = find_runs.find(source).resolve()
    record = results.completed_in(folder, str(source))
    item, reasons = _planned(folder, record, project)
    say(f"{item.name} of {folder}")
    for reason in reasons:
        say(f"differs: {reason}")
    root = paths.outputs_root() / "reproductions" / f"{item.name}-{folder.name}"
    shutil.rmtree(root, ignore_errors=True)
    _link_others(item.name, root)
    item.folder = root / item.name / item.fingerprint
    with delivery.Uploader(say, register_model=project.register_model) as uploader:
        tags = {"wsss.reproduces": delivery.run_of(folder) or str(folder)}
        where = {"parent": None, "uploader": uploader, "machine": Machine(Screen(say=say))}
        experiment = beginning(folder).get("experiment", stage_run.BY_HAND)
        run_stage(experiment, item, label=f"{item.name} again", tags=tags, **where)
    differences = compare(folder, item.folder) + project.compare_files(folder, item.folder)
    for line in differences[:MOST_LINES]:
        say(line)
    if len(differences) > MOST_LINES:
        say(f"and {len(differences) - MOST_LINES} more")
    if not differences:
        metrics = sum(name not in TIMINGS for name in record["metrics"])
        files = sum(each["files"] for each in record["manifest"].values())
        weights = ", its weights" if (folder / "weights.pt").exists() else ""
        say(f"identical: {metrics} metrics, {files} files{weights}")
        shutil.rmtree(root)
        return True
    why = "the differences above may be the reason" if reasons else UNEXPLAINED
    say(f"not identical; {why}. The new results are in {item.folder}")
    return False


def _link_others(name, root):
    """Link the results of all stages but one into another outputs folder."""
    for path in paths.outputs_root().resolve().glob(f"*/*/{results.COMPLETE}"):
        stage, fingerprint = path.parts[-3:-1]
        if stage != name:
            (root / stage).mkdir(parents=True, exist_ok=True)
            (root / stage / fingerprint).symlink_to(path.parent, target_is_directory=True)


def _planned(folder, record, project):
    """The stage to run, as a ``plan.Planned``, and what differs from then."""
    chain = stages.read_stages()
    if record["stage"] not in chain:
        raise InputError(f"{folder}: there is no stage '{record['stage']}' in notebooks/ any more")
    stage, before = chain[record["stage"]], record["parameters"]
    values = {name: value for name, value in before.items() if name in stage.parameters}
    reasons, upstream = [], {}
    if gone := [name for name in before if name not in stage.parameters]:
        reasons.append(f"the notebook lacks parameters that it had: {', '.join(gone)}")
    if new := [name for name in stage.parameters if name not in before]:
        reasons.append(f"the notebook has new parameters, at their defaults: {', '.join(new)}")
    for name, fingerprint in record["inputs"].items():
        place = paths.stage_folder(name, fingerprint).resolve()
        upstream[name] = results.completed_in(place, f"{folder}: {name}")["fingerprint"]
        values[f"{name}_run"] = str(place)
    values = stage.resolve(values)
    digest = project.data_digest(values)
    fingerprint = stage.fingerprint(stage.question(values, upstream, data_digest=digest))
    if not stages.same_data(digest, record["data_digest"]):
        reasons.append(f"the data's digest is {digest}, and was {record['data_digest']}")
    elif fingerprint != record["fingerprint"] and not reasons:
        files = lineage.changed_code(record, stage.code)
        reasons.append(
            f"code: {', '.join(files)}" if files else "the contents of a folder it was given"
        )
    if values.get("model_name"):  # register no new version
        values["model_name"] = ""
        fingerprint = stage.fingerprint(stage.question(values, upstream, data_digest=digest))
    item = plan.Planned(stage, values, fingerprint, Path(), False, {"reproduced": True})
    return item, reasons + _surroundings(folder)


def _surroundings(folder):
    """What of code, packages and machine differs from the time of a stage's run."""
    then, now = Journal(folder).current_tags, provenance.tags()
    names = {"mlflow.source.git.commit": "the commit", "wsss.python": "Python"}
    names |= {"wsss.device": "the machine"}
    reasons = [
        f"{name} is {now[tag]}, and was {then[tag]}"
        for tag, name in names.items()
        if then.get(tag) and then[tag] != now[tag]
    ]
    before = _text(folder / "source" / "changes.diff")
    if before.strip() != (provenance.changes() or "").strip():
        reasons.append("uncommitted changes to files")
    packages = {*_text(folder / "source" / "packages.txt").split()}
    if packages and (changed := packages ^ {*provenance.packages()}):
        new = sorted(changed - packages, key=str.lower)
        old = ", ".join(sorted(changed & packages, key=str.lower)[:MOST_LINES])
        listed = [*new[:MOST_LINES], *["..."] * (len(new) > MOST_LINES)]
        reasons.append(f"packages: now {', '.join(listed) or 'fewer'}, then {old}")
    return reasons


def _text(path):
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


def compare(folder: Path, other: Path) -> list[str]:
    """The differences between the results of two runs of a stage, a line each: metrics to the last
    bit, bulk files by their contents.
    """
    then, now = results.completed(folder), results.completed(other)
    lines = []
    for name in sorted({*then["metrics"], *now["metrics"]} - {*TIMINGS}):
        old, new = (record["metrics"].get(name) for record in (then, now))
        if json.dumps(old) != json.dumps(new):  # NaN is NaN
            lines.append(f"{name}: {new}, and was {old}")
    for name in sorted({*then["manifest"], *now["manifest"]}):
        if then["manifest"].get(name) != now["manifest"].get(name):
            lines.append(f"{name}/: files differ")
    return lines
