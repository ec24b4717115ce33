"""Runs the stages of a plan that are not done, one after the other, in one MLflow run."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from tempfile import NamedTemporaryFile

from wsss.errors import InputError
from wsss.io.locks import acquire, held, lock_of
from wsss.io.text import markdown_table
from wsss.lab import lineage, paths, results
from wsss.lab.plan import Planned
from wsss.lab.project import Project
from wsss.lab.record import delivery, mlflow_pages, provenance
from wsss.lab.record.journal import Journal, beginning, legal
from wsss.lab.record.stage_run import FIRST, KEY
from wsss.lab.run.notebook import Machine, keep_notebook, run_stage, seconds_of

REPORT = "report.md"  # in a stage's folder
TRUSTED = "wsss.trusted_code"  # tag: the files whose code is not what computed the results


def run(
    experiment: dict,
    planned: list[Planned],
    *,
    project: Project,
    title: str = "",
    machine: Machine | None = None,
) -> str | None:
    """Run what is not done, inside one MLflow parent run; returns the report as Markdown, or None
    if the plan has none. Errors are those of ``run_stage``.

    Records that are not in MLflow yet are delivered first, and interrupted runs get their status.
    ``title`` distinguishes this run of the experiment; empty takes the changes.
    """
    name, description = experiment["name"], experiment.get("description", "")
    machine = machine or Machine()
    say, register = machine.say, project.register_model
    _check_outputs()
    trusted = _mark_trusted(planned, say)
    try:
        delivery.close_stale_runs(say, project=project)
    except InputError as fault:
        say(f"{fault}; work goes on, and its record waits on disk")
    if line := provenance.other_versions([item.folder for item in planned if item.done]):
        say(line)
    todo = [item for item in planned if not item.done]
    if not todo:
        say(f"{name}: all {len(planned)} stages are done; nothing to do")
        return _report(planned)
    project.check_values(todo)
    project.check_room(planned, paths.outputs_root())
    for item in planned:
        if item.done and not item.trusted:
            score = summary(results.completed(item.folder)["metrics"], project.scores)
            say(f"{item.name}: done before, reused  {score}{paths.shown(item.folder)}")
        elif item.damage:
            say(f"{item.name}: done before, but {item.damage}; it is repaired")
        elif item.changed and not item.done:
            say(f"{item.name}: code changed: {', '.join(item.changed)}")
    changes = {change: value for item in planned for change, value in item.changes.items()}
    title = title or mlflow_pages.title(changes)
    run_name = f"{title} · {name}" if title else name
    tags = {"wsss.experiment": name, mlflow_pages.NOTE: description}
    tags |= {TRUSTED: trusted} if trusted else {}
    folder = paths.outputs_root() / "runs" / f"{name}-{uuid.uuid4().hex[:12]}"
    with lock_of(folder, "driver"), delivery.Uploader(say, register_model=register) as uploader:
        parent = Journal(folder)
        parent.begin(name, run_name, tags=tags | provenance.tags())
        parent.add("params", values=changes)
        uploader.watch(folder)
        try:
            columns = _run_stages(name, planned, parent, uploader, machine, project)
            report = _report(planned)
            table = report or _table(planned, project)
            parent.tags({mlflow_pages.NOTE: "\n\n".join(filter(None, [table, description]))})
            parent.add("experiment", name=name, description=description, columns=columns)
        except BaseException as fault:
            killed = isinstance(fault, KeyboardInterrupt)
            error = None if killed else f"{type(fault).__name__}: {fault}"
            with suppress(OSError):  # a full disk must not hide the fault
                parent.end("KILLED" if killed else "FAILED", error)
            raise
        parent.end("FINISHED")
    if uploader.unavailable:
        say(f"{uploader.unavailable}; the next `wsss run` delivers the record, which is on disk")
    return report


def _run_stages(name, planned, parent, uploader, machine, project):
    """Run what is not done; returns the names of the headline scores."""
    headlines, others = [], {}
    # a notebook is converted to HTML while the next one starts
    with ThreadPoolExecutor(1) as converter:
        pages = []
        for place, item in enumerate(planned, 1):
            label = f"[{place}/{len(planned)}] {item.name}"
            if item.done and (other := lineage.outdated(item.folder)):  # repaired a moment ago
                machine.say(f"{label}: {other} has other results now; computed again")
                item.done, item.forced = False, True
            with nullcontext(False) if item.done else _locked(item, label, machine) as needed:
                if needed:
                    uploader.upload()  # a report reads what earlier stages recorded
                    where = {"parent": parent.folder, "uploader": uploader, "machine": machine}
                    where |= {"later": _seconds_of(planned[place - 1 :]), "scores": project.scores}
                    try:
                        run_stage(name, item, label=label, **where)
                    finally:
                        pages.append(converter.submit(keep_notebook, item.folder))
            uploader.watch(item.folder)
            parent.add("stage", name=item.name, folder=str(item.folder))
            final = results.completed(item.folder)["metrics"]
            metrics = final | {"seconds": seconds_of(item.folder)}
            if needed:
                about = f"{metrics['seconds']:.0f} s  {summary(final, project.scores)}"
                machine.say(f"{label}: done in {about}{paths.shown(item.folder)}")
            first = mlflow_pages.headlines(final, project.scores)
            with held(item.folder, "driver") as idle:  # else the run that has it does the same
                if idle and beginning(item.folder):
                    Journal(item.folder).metrics(first)
            parent.metrics(first)
            headlines += first
            others |= {f"{item.name}.{metric}": round(metrics[metric], 4) for metric in metrics}
            _show_pictures(parent, item)
    parent.metrics(others)  # MLflow lists metrics in the order of their arrival
    for page in pages:
        page.result()  # raises the thread's exception
    return headlines


def _show_pictures(parent, item):
    """Show a stage's pictures and report in the experiment's run, by photo, stages side by side."""
    stage = item.stage.path.stem
    for path in sorted(item.folder.glob("gallery/**/*.png")):
        name = path.relative_to(item.folder / "gallery").with_suffix("").as_posix()
        copy = _copy(path, parent.folder / "gallery" / name / f"{stage}.png")
        parent.file(copy, kind="image", key=legal(f"{FIRST}{name}/{stage}", *KEY))
    for path in sorted(item.folder.glob("figures/*.png")):
        parent.file(_copy(path, parent.folder / "figures" / stage / path.name), f"figures/{stage}")
    if (path := item.folder / REPORT).exists():
        parent.file(_copy(path, parent.folder / REPORT))


def _copy(path, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copyfile(path, target)


def _table(planned, project):
    """The scores of a plan without a report, as Markdown; empty if it has neither."""
    rows = []
    for item in planned:
        if text := summary(results.completed(item.folder)["metrics"], project.scores).strip():
            rows.append([item.name, text])
    return markdown_table(["stage", "result"], rows) if rows else ""


def summary(metrics: dict[str, float], scores: dict[str, tuple[str, str]]) -> str:
    """A stage's scores by the names of ``Project.scores``, and its loss, each with two blanks."""
    parts = []
    for name, value in mlflow_pages.headlines(metrics, scores).items():
        title, split = name.partition(" ")[2].split("/")
        parts.append(f"{title} {value:.1f} ({split})  ")
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3g}  ")
    return "".join(parts)


def _seconds_of(planned):
    """Seconds that stages will take, by their latest completed runs; None if one never ran."""
    runs = [lineage.completed_runs(item.folder.parent)[:1] for item in planned if not item.done]
    seconds = [sum(seconds_of(folder) for folder, _ in latest) for latest in runs]
    return sum(seconds) if all(seconds) else None


@contextmanager
def _locked(item, label, machine):
    """Hold a stage's folder; yields whether the stage still has to run."""
    lock = lock_of(item.folder, "driver")
    waited = not acquire(lock, 0)
    if waited:
        machine.say(f"{label}: another `wsss run` works on it; waiting for that one")
        while not acquire(lock, 1):
            machine.check()
    try:
        yield not (waited and results.completion(item.folder) and not results.damage(item.folder))
    finally:
        lock.release()


def _mark_trusted(planned, say):
    """Report and record which results of other code are reused; returns the same as text."""
    lines = []
    for item in planned:
        if item.trusted:
            files = ", ".join(item.changed)
            say(f"{item.name}: code changed: {files}; reused as --trust-code asks")
            Journal(item.folder).tags({TRUSTED: files})
            lines.append(f"{item.name}: {files}")
    return "; ".join(lines)


def _check_outputs():
    """Refuse an output folder without write permission, before anything starts."""
    root = paths.outputs_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        NamedTemporaryFile(dir=root, prefix=".writable-").close()
    except OSError as fault:
        expected = f"expected a folder that can be written ({fault.strerror})"
        raise InputError(f"{root}: {expected}; set WSSS_OUTPUTS to one") from None


def _report(planned):
    path = planned[-1].folder / REPORT
    return path.read_text(encoding="utf-8") if path.exists() else None
