"""An experiment's plan: its file and overrides, read and checked, and which stages are done."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wsss.errors import InputError, did_you_mean
from wsss.io import safe_yaml
from wsss.lab import lineage, paths, results, stages
from wsss.lab.project import Project

KEYS = ("name", "description", "common", "stages", "smoke", "sweep")
OVERRIDE = "expected stage.parameter=value; write it such as random_walk.beta=4"


@dataclass
class Planned:
    """One stage of a plan."""

    stage: stages.Stage
    values: dict
    fingerprint: str
    folder: Path
    done: bool
    # ``stage.parameter`` to value, of the overrides that this stage or one before it depends on
    changes: dict = field(default_factory=dict)
    forced: bool = False  # it runs again although it is done
    damage: str = ""  # why results that were complete cannot be used
    changed: tuple[str, ...] = ()  # files that differ from those of the same question's last run
    trusted: bool = False  # the results of that other code are reused

    @property
    def name(self) -> str:
        return self.stage.name


def read_experiment(path: str | Path) -> dict:
    """An experiment file: a mapping with ``KEYS``; ``sweep`` is as ``grid.combinations`` has it."""
    if not Path(path).is_file():
        folder = paths.project_root() / "experiments"
        names = sorted(each.name for each in folder.glob("*.yaml"))
        close = did_you_mean(Path(path).name, names)
        fault = f"no such experiment file{close}; experiments/ has: {', '.join(names)}"
        raise InputError(f"{path}: {fault}")
    experiment = safe_yaml.read(path, "an experiment")
    if not isinstance(experiment, dict) or not isinstance(experiment.get("stages"), dict):
        raise InputError(f"{path}: expected a mapping with 'stages:'; see experiments/shapes.yaml")
    if unknown := [key for key in experiment if key not in KEYS]:
        raise InputError(f"{path}: unknown key '{unknown[0]}'; expected: {', '.join(KEYS)}")
    for key in ("common", "stages", "smoke", "sweep"):
        experiment[key] = experiment.get(key) or {}
        _check_mapping(f"{path}: {key}", experiment[key])
        for name, values in experiment[key].items() if key in ("stages", "smoke") else ():
            _check_mapping(f"{path}: {key}.{name}", values or {})
    for key in ("name", "description"):
        if not isinstance(experiment.setdefault(key, ""), str):
            raise InputError(f"{path}: expected a text as '{key}'; put it in quotes")
    name = experiment["name"] = experiment["name"] or Path(path).stem
    if "/" in name or name.startswith("."):
        expected = "expected a name without '/' and a leading '.'"
        raise InputError(f"{path}: {expected} but got '{name}'; change it")
    return experiment


def _check_mapping(where, values):
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{where}: expected lines 'name: value' but found another form; fix it")


def parse_overrides(texts: list[str]) -> dict[str, dict]:
    """``["stage.parameter=value", ...]`` as ``{stage: {parameter: value}}``."""
    given = [text.partition("=") for text in texts]
    refuse_twice(name for name, *_ in given)
    if incomplete := [name for name, equals, _ in given if not equals]:
        raise InputError(f"'{incomplete[0]}': {OVERRIDE}")
    return by_stage({name: parse_value(name, value) for name, _, value in given})


def by_stage(values: dict) -> dict[str, dict]:
    """``{"stage.parameter": value}`` as ``{stage: {parameter: value}}``, or InputError."""
    found = {}
    for name, value in values.items():
        stage, _, parameter = str(name).partition(".")
        if not (stage and parameter):
            raise InputError(f"'{name}': {OVERRIDE}")
        found.setdefault(stage, {})[parameter] = value
    return found


def parse_value(name: str, text: str) -> object:
    """The value of an override ``name=text``, read as YAML. Nothing is the empty text. The name of
    a run (``<stage>_run``) is taken as it stands, since an id may look like a number; so is a text
    without quotes that has a ``#``, which is no comment.
    """
    quoted = text.lstrip()[:1] in ("'", '"')
    if not text or (name.endswith("_run") and not quoted):
        return text
    value = safe_yaml.parse(text, f"'{name}={text}'")
    return text.strip() if isinstance(value, str) and " #" in text and not quoted else value


def refuse_twice(names: Iterable[str], of: str = "") -> None:
    """Raise an InputError for the first name, or value ``of`` a parameter, that is there twice."""
    for name, count in Counter(names).items():
        if count > 1:
            what = f"{of}: {name} is listed" if of else f"{name}: is given"
            raise InputError(f"{what} twice; keep one of them")


def plan(
    experiment: dict,
    overrides: dict | None = None,
    *,
    project: Project,
    smoke: bool = False,
    force: bool = False,
    start: str | None = None,
    only: str | None = None,
    until: str | None = None,
    trust_code: bool = False,
) -> list[Planned]:
    """The stages of an experiment in order, with values, fingerprint, and whether they are done;
    InputError if a name or value is wrong, or a stage before ``start`` or ``only`` is not done.

    Args:
        overrides: from ``parse_overrides``; they go before ``smoke``, the experiment's smoke size,
            and that before its other values.
        force: run stages again that are done.
        start, only, until: the first stage that may run (or, with ``force``, runs again), the one
            that may, and the last of the plan.
        trust_code: reuse results of the same question that other code computed.
    """
    chain, overrides = stages.read_stages(), overrides or {}
    layers = [experiment["stages"], experiment["smoke"] if smoke else {}, overrides]
    names = _names(experiment, layers, chain, chosen=(start, only, until))
    common = experiment["common"] | _merged(layers[1:], "common")
    for name in common:
        if not any(name in chain[stage].parameters for stage in names):
            known = {parameter for stage in names for parameter in chain[stage].parameters}
            fault = f"no stage of this experiment has such a parameter{did_you_mean(name, known)}"
            raise InputError(f"common.{name}: {fault}; fix its name")
    first, option = only or start, "--only" if only else "--from"
    if only and start:
        raise InputError(f"--only {only}: leaves --from {start} without meaning; leave one out")
    if until:
        names = names[: names.index(until) + 1]
        if first and first not in names:
            raise InputError(f"{option} {first}: comes after --until {until}; leave one out")
    planned: dict[str, Planned] = {}
    digest, forced = "", False
    for name in names:
        stage = chain[name]
        shared = {key: value for key, value in common.items() if key in stage.parameters}
        values = stage.resolve(shared | _merged(layers, name))
        digest = digest or project.data_digest(values)
        upstream, changes = _connect(stage, values, planned, chain, project, digest)
        changes |= {"smoke": True} if smoke else {}
        for key in ("common", name):
            given = overrides.get(key, {})
            changes |= {f"{key}.{each}": given[each] for each in given if each in stage.parameters}
        forced = forced or (force and (start in (None, name) or only == name))
        question = stage.question(values, upstream, data_digest=digest)
        mark, again = stage.fingerprint(question), forced and only in (None, name)
        folder = paths.stage_folder(name, mark)
        planned[name] = Planned(stage, values, mark, folder, False, changes, again)
        _look_up(planned[name], question, trust_code=trust_code)
    if first and (only or not force):
        before = names[: names.index(first)]
        if missing := [name for name in before if not planned[name].done]:
            undone = f"these stages before it are not done: {', '.join(missing)}"
            raise InputError(f"{option} {first}: {undone}; leave {option} out")
        names = [*before, only] if only else names
    return [planned[name] for name in names]


def _names(experiment, layers, chain, *, chosen):
    """The experiment's stages in the chain's order; InputError for a name that is not one."""
    names = [name for name in chain if name in experiment["stages"]]
    given = [*layers[0], *(name for layer in layers[1:] for name in layer if name != "common")]
    for name in [*given, *filter(None, chosen)]:
        if name not in names:
            known = f"{did_you_mean(name, names)}; this experiment has: {', '.join(names)}"
            raise InputError(f"unknown stage '{name}'{known}")
    return names


def _merged(layers, name):
    """The values of a stage, those of later layers in place of earlier ones."""
    return {key: value for layer in layers for key, value in (layer.get(name) or {}).items()}


def _connect(stage, values, planned, chain, project, data_digest):
    """Fill in the folders of the stages that a stage builds on; returns their fingerprints by name,
    and the changes that they depend on.
    """
    upstream, changes = {}, {}
    for parameter, other in stages.upstream_of(stage, chain, values=values).items():
        if values[parameter]:  # a run, perhaps of another experiment
            folder = project.find_run(values[parameter], other, data_digest=data_digest)
            values[parameter], where = str(folder), f"{stage.name}.{parameter}"
            record = lineage.input_record(folder, where, chain[other], data_digest=data_digest)
            upstream[other] = record["fingerprint"]
        elif other in planned:
            upstream[other] = planned[other].fingerprint
            values[parameter] = str(planned[other].folder)
            changes |= planned[other].changes
        else:
            missing = f"{other}, which comes later or is not in this experiment"
            raise InputError(f"{stage.name}: builds on {missing}; add it")
    return upstream, changes


def _look_up(item, question, *, trust_code):
    """Set whether a stage is done, in its folder or, if that code is trusted, by other code."""
    before = None if results.completion(item.folder) else lineage.answered(item.name, question)
    if before:
        item.changed = tuple(lineage.changed_code(before, item.stage.code))
        folder = paths.stage_folder(item.name, before["fingerprint"])
        item.trusted = trust_code and not item.forced and not results.damage(folder)
        if item.trusted:
            item.fingerprint, item.folder = before["fingerprint"], folder
    item.damage = results.damage(item.folder)
    complete = results.completion(item.folder) is not None
    if complete and not item.damage and (name := lineage.outdated(item.folder)):
        item.damage, item.forced = f"it was built on other results of {name}", True
    item.done = complete and not item.forced and not item.damage
