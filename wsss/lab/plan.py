"""An experiment's plan: its file and its overrides read and checked, and what of it is done; the
``driver`` runs the rest.
"""

from dataclasses import dataclass, field
from pathlib import Path

from wsss.errors import InputError
from wsss.io import safe_yaml
from wsss.lab import lineage, paths, results, stages

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
    changed: tuple = ()  # files whose code is not what answered the same question before
    trusted: bool = False  # whether results of that other code are reused

    @property
    def name(self):
        return self.stage.name


def read_experiment(path):
    """An experiment file as a dict with ``name``, ``description``, ``common``, ``stages``,
    ``smoke`` and ``sweep`` (see ``sweep.combinations``).
    """
    if not Path(path).is_file():
        have = ", ".join(
            sorted(p.name for p in (paths.project_root() / "experiments").glob("*.yaml"))
        )
        raise InputError(f"{path}: no such experiment file; experiments/ has: {have}")
    experiment = safe_yaml.read(path, "an experiment")
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
    YAML, but nothing after ``=`` is the empty text, which a parameter can be.
    """
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        stage, dot, parameter = name.partition(".")
        if not (equals and dot and stage and parameter):
            raise InputError(
                f"'{text}': expected stage.parameter=value; write it such as random_walk.beta=4"
            )
        given.setdefault(stage, {})[parameter] = (
            safe_yaml.parse(value, f"'{text}'") if value else ""
        )
    return given


def plan(
    experiment,
    overrides=None,
    *,
    project,
    smoke=False,
    force=False,
    start=None,
    only=None,
    until=None,
    trust_code=False,
):
    """The stages of an experiment in order, each with its values, fingerprint, and whether it is
    done.

    Args:
        experiment: from ``read_experiment``.
        overrides: from ``parse_overrides``; those of ``common`` go over the experiment's.
        project: the ``Project`` whose notebooks these are.
        smoke: apply the experiment's smoke size, whose ``common`` goes over the experiment's.
        force: nothing counts as done.
        start: with ``force``, only from this stage on.
        only: run this stage alone; those before it must be done.
        until: leave out the stages after this one.
        trust_code: reuse results of the same question that other code computed.
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
            digest = project.data_digest(values)
        upstream, changes = {}, {"smoke": True} if smoke else {}
        for parameter, other in stages.upstream_of(stage, chain, values).items():
            if values[parameter]:  # results of some other experiment, named by their folder
                folder = paths.from_root(values[parameter])
                record = results.completed_in(folder, f"{name}.{parameter}")
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
        folder = paths.stage_folder(name, fingerprint)
        forced = forced or (force and start in (None, name)) or (force and only == name)
        again = forced and only in (None, name)
        changed, trusted = (), False
        if results.completion(folder) is None:
            before = lineage.answered(name, stage.question(values, upstream, digest))
            changed = tuple(lineage.changed_code(before[0], stage.code)) if before else ()
            if before and trust_code and not again:
                old = paths.stage_folder(name, before[0]["fingerprint"])
                if trusted := not results.damage(old):
                    fingerprint, folder = before[0]["fingerprint"], old
        damage = results.damage(folder)
        done = not again and not damage and results.completion(folder) is not None
        planned[name] = Planned(
            stage, values, fingerprint, folder, done, changes, again, damage, changed, trusted
        )
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
