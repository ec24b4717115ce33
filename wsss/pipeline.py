"""The driver: reads an experiment, checks everything, runs what is not done in one MLflow run."""

import shlex
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from wsss import datasets, delivery, disk, provenance, shown, stages, yamls
from wsss.errors import InputError
from wsss.execution import NOTEBOOK, keep_notebook, run_stage, seconds_of
from wsss.journal import Journal
from wsss.locks import lock_of, taken

KEYS = ("name", "description", "common", "stages", "smoke", "sweep")


@dataclass
class Planned:
    """One stage of a plan.

    ``changes`` are those against the experiment's file that it depends on, itself or through the
    stages that it builds on, by ``stage.parameter`` (see ``shown.title``).
    """

    stage: stages.Stage
    values: dict
    fingerprint: str
    folder: Path
    done: bool
    changes: dict = field(default_factory=dict)
    forced: bool = False  # whether it is run again though it is done
    damage: str = ""  # of what was done, if it cannot be used

    @property
    def name(self):
        return self.stage.name


def read_experiment(path):
    """An experiment file as a dict with ``name``, ``description``, ``common``, ``stages``,
    ``smoke`` and ``sweep`` (see ``sweep.combinations``).
    """
    if not Path(path).is_file():
        have = ", ".join(
            sorted(p.name for p in (stages.project_root() / "experiments").glob("*.yaml"))
        )
        raise InputError(f"{path}: no such experiment file; experiments/ has: {have}")
    experiment = yamls.read(path, "an experiment")
    if not isinstance(experiment, dict) or not isinstance(experiment.get("stages"), dict):
        raise InputError(f"{path}: expected a mapping with 'stages:'; see experiments/shapes.yaml")
    for key in experiment:
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; expected: {', '.join(KEYS)}")
    for key in ("common", "stages", "smoke", "sweep"):
        experiment[key] = experiment.get(key) or {}
        _check_mapping(f"{path}: {key}", experiment[key])
    for key in ("stages", "smoke"):
        for name, values in experiment[key].items():
            _check_mapping(f"{path}: {key}.{name}", values or {})
    for key in ("name", "description"):
        if not isinstance(experiment.setdefault(key, ""), str):
            raise InputError(f"{path}: expected a text as '{key}'; put it in quotes")
    experiment["name"] = experiment["name"] or Path(path).stem
    if "/" in experiment["name"] or experiment["name"].startswith("."):
        raise InputError(
            f"{path}: the name '{experiment['name']}' is one of folders; leave out '/' and a "
            "leading '.'"
        )
    return experiment


def _check_mapping(where, values):
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{where}: expected lines 'name: value' but found another form; mend it")


def parse_overrides(texts):
    """``["stage.parameter=value", ...]`` as ``{stage: {parameter: value}}``; values are read as
    YAML.
    """
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        stage, dot, parameter = name.partition(".")
        if not (equals and dot and stage and parameter):
            raise InputError(
                f"'{text}': expected stage.parameter=value, such as random_walk.beta=4"
            )
        given.setdefault(stage, {})[parameter] = yamls.parse(value, f"'{text}'")
    return given


def plan(
    experiment, overrides=None, *, smoke=False, force=False, start=None, only=None, until=None
):
    """The stages of an experiment in order, each with its values, fingerprint, and whether it is
    done.

    Args:
        experiment: from ``read_experiment``.
        overrides: from ``parse_overrides``; those of ``common`` go over the experiment's.
        smoke: apply the experiment's smoke size, whose ``common`` goes over the experiment's.
        force: nothing counts as done.
        start: with ``force``, only from this stage on.
        only: run this stage alone; those before it must be done.
        until: leave out the stages after this one.
    """
    chain = stages.read_stages()
    overrides = dict(overrides or {})
    names = [name for name in chain if name in experiment["stages"]]
    small = experiment["smoke"] if smoke else {}
    everywhere = overrides.pop("common", {})
    common = experiment["common"] | (small.get("common") or {}) | everywhere
    small = {name: values for name, values in small.items() if name != "common"}
    layers = [experiment["stages"], small, overrides]
    for layer in layers:
        for name in layer:
            if name not in chain or name not in names:
                raise InputError(
                    f"'{name}' is no stage of this experiment; its stages are: {', '.join(names)}"
                )
    for name in (start, only, until):
        if name and name not in names:
            raise InputError(
                f"'{name}' is no stage of this experiment; its stages are: {', '.join(names)}"
            )
    for name in common:
        if not any(name in chain[stage].parameters for stage in names):
            raise InputError(f"common.{name}: no stage of this experiment has such a parameter")

    if until:
        names = names[: names.index(until) + 1]
    planned, digest, forced = {}, None, False
    for name in names:
        stage = chain[name]
        values = {key: value for key, value in common.items() if key in stage.parameters}
        for layer in layers:
            values |= layer.get(name) or {}
        values = stage.resolve(values)
        if digest is None:
            digest = datasets.open(
                values["dataset"], stages.from_root(values["data_root"])
            ).digest()
        upstream, changes = {}, {"smoke": True} if smoke else {}
        for parameter, other in stages.upstream_of(stage, chain, values).items():
            if values[parameter]:  # results of some other experiment, named by their folder
                folder = stages.from_root(values[parameter])
                record = stages.completed_in(folder, f"{name}.{parameter}")
                upstream[other] = record["fingerprint"]
            elif other in planned:
                upstream[other] = planned[other].fingerprint
                values[parameter] = str(planned[other].folder)
                changes |= planned[other].changes
            else:
                raise InputError(
                    f"{name}: builds on {other}, which comes later or is not in this experiment; "
                    "add it"
                )
        changes |= {f"common.{k}": v for k, v in everywhere.items() if k in stage.parameters}
        changes |= {f"{name}.{key}": value for key, value in (overrides.get(name) or {}).items()}
        fingerprint = stage.fingerprint(values, upstream, digest)
        folder = stages.stage_folder(name, fingerprint)
        forced = forced or (force and start in (None, name)) or (force and only == name)
        again = forced and only in (None, name)
        damage = stages.damage(folder)
        done = not again and not damage and stages.completion(folder) is not None
        planned[name] = Planned(stage, values, fingerprint, folder, done, changes, again, damage)
    if only:
        missing = [p.name for p in list(planned.values())[: names.index(only)] if not p.done]
        if missing:
            raise InputError(
                f"--only {only}: these stages before it are not done: {', '.join(missing)}; leave "
                "--only out"
            )
        planned = {name: p for name, p in planned.items() if names.index(name) <= names.index(only)}
    elif start and not force:
        missing = [p.name for p in list(planned.values())[: names.index(start)] if not p.done]
        if missing:
            raise InputError(
                f"--from {start}: these stages before it are not done: {', '.join(missing)}; "
                "leave it out"
            )
    return list(planned.values())


def dry_run(planned):
    """The plain papermill commands of what would run, one a line."""
    lines = []
    for item in planned:
        if item.done:
            lines.append(f"# {item.name}: done, {item.folder}")
            continue
        given = [
            f"-{'y' if isinstance(value, list) else 'p'} "
            + (
                shlex.quote(f"{name}: {value}")
                if isinstance(value, list)
                else f"{name} {shlex.quote(str(value))}"
            )
            for name, value in item.values.items()
            if value != item.stage.parameters[name].default
        ]
        notebook = item.stage.path.relative_to(stages.project_root())
        lines.append(
            " ".join(
                [
                    "papermill",
                    str(notebook),
                    str(item.folder / NOTEBOOK),
                    *given,
                ]
            )
        )
    return "\n".join(lines)


def run(experiment, planned, *, title="", say=print):
    """Run what is not done, inside one MLflow parent run; returns the report's text, or None
    without a report.

    What earlier runs could not deliver to MLflow is delivered first, and runs that were cut off get
    their status.

    Args:
        experiment: from ``read_experiment``.
        planned: from ``plan``.
        title: what sets this run apart from others of the experiment; empty takes the changes.
        say: what is told to people goes through it.

    Raises:
        InputError: a stage refused what it was given.
        StageFailed: a stage ended otherwise without completing.
    """
    name, description = experiment["name"], experiment.get("description", "")
    _check_outputs()
    try:
        delivery.settle(say)
    except delivery.Away as fault:
        say(f"{fault}; work goes on, and its record waits on disk")
    todo = [item for item in planned if not item.done]
    if not todo:
        say(f"{name}: all {len(planned)} stages are done; nothing to do")
        return _report(planned)
    disk.check(planned, stages.outputs_root())
    for item in planned:
        if item.done:
            say(f"{item.name}: done before, reused ({item.folder})")
        elif item.damage:
            say(f"{item.name}: done before, but {item.damage}; it is mended")
    changes = {change: value for item in planned for change, value in item.changes.items()}
    title = title or shown.title(changes)
    when = time.strftime("%Y-%m-%d %H:%M")
    folder = stages.outputs_root() / "runs" / f"{name}-{uuid.uuid4().hex[:12]}"
    with lock_of(folder, "driver"), delivery.Courier(say) as courier:
        parent = Journal(folder)
        parent.begin(
            name,
            shown.run_name(name, title, when) if title else f"{name} {when}",
            {"wsss.experiment": name, shown.NOTE: description} | provenance.tags(),
        )
        courier.carry(folder)
        status, error = "FAILED", None
        try:
            headlines = _run_stages(name, planned, parent, courier, say)
            report = _report(planned)
            text = "\n\n".join(filter(None, [description, report]))
            parent.tags({shown.NOTE: text})
            parent.add("experiment", name=name, description=description, columns=headlines)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
            raise
        finally:
            with suppress(OSError) if status != "FINISHED" else nullcontext():
                parent.end(status, error)
    if courier.away:
        say(f"{courier.away}; the record waits on disk, and the next `wsss run` delivers it")
    return report


def _run_stages(name, planned, parent, courier, say):
    """Run what is not done; returns the names of the figures that come first."""
    headlines = []
    # a notebook becomes a page while the next one starts; leaving the block waits for all
    with ThreadPoolExecutor(1) as pages:
        written = []
        for place, item in enumerate(planned, 1):
            if not item.done:
                label = f"[{place}/{len(planned)}] {item.name}"
                with _alone(item, label, say) as free:
                    if free:
                        courier.flush()  # a report reads what earlier stages have recorded
                        try:
                            run_stage(name, item, parent.folder, label, courier, say)
                        finally:
                            written.append(pages.submit(keep_notebook, item.folder))
            courier.carry(item.folder)
            parent.add("stage", name=item.name, folder=str(item.folder))
            final = stages.completion(item.folder)["metrics"]
            told = final | {"seconds": seconds_of(item.folder)}
            parent.metrics({f"{item.name}.{metric}": value for metric, value in told.items()})
            first = shown.headlines(final)
            parent.metrics(first)
            headlines += first
    for page in written:
        page.result()  # raises what went wrong in the thread
    return headlines


@contextmanager
def _alone(item, label, say):
    """Hold a stage's folder; gives whether there is anything left to do when it was had."""
    lock = lock_of(item.folder, "driver")
    waited = not taken(lock, 0)
    if waited:
        say(f"{label}: another `wsss run` works on it; waiting for that one")
        lock.acquire()
    try:
        yield not (waited and stages.completion(item.folder) and not stages.damage(item.folder))
    finally:
        lock.release()


def _check_outputs():
    """Refuse an output folder that cannot be written, before anything starts."""
    root = stages.outputs_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=root, prefix=".writable-"):
            pass
    except OSError as fault:
        raise InputError(
            f"{root}: expected a folder that can be written ({fault.strerror}); set "
            "WSSS_OUTPUTS to one"
        ) from None


def _report(planned):
    path = planned[-1].folder / "report.md"
    return path.read_text() if path.exists() else None
