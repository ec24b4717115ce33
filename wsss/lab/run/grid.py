"""The points of a sweep: every combination of variants, swept values and seeds."""

import itertools
import math
from collections import Counter
from typing import NamedTuple

from wsss.errors import InputError
from wsss.lab import plan as plans
from wsss.lab import stages

MOST_COMBINATIONS = 10_000  # a month of the fastest stage


class Combination(NamedTuple):
    """One point of a sweep."""

    names: dict  # column to value: the variant's name and the swept parameters' values
    seed: int | None  # None for the experiment's own
    overrides: dict  # ``{stage: {parameter: value}}``
    tail: str = ""  # the first stage that the seed is set for; empty for all stages

    @property
    def title(self) -> str:
        seed = {} if self.seed is None else {"seed": self.seed}
        return ", ".join(f"{name} {value}" for name, value in (self.names | seed).items())


def split_overrides(texts: list[str]) -> tuple[list[str], dict]:
    """Separate command-line overrides with one value from those that make a sweep.

    Several values (``random_walk.beta=4,8,16``) make a grid. A list parameter's value is in
    brackets, a text with a comma in quotes. ``seeds=0,1,2`` sets the seeds of all stages,
    ``random_walk.seeds=0,1,2`` those of this and later stages.

    Returns:
        the overrides with one value, and a sweep for ``combinations``.

    Raises:
        InputError: a name that is given twice, or seeds that are no numbers.
    """
    single, grid, sweep = [], {}, {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.rpartition(".")[2] == "seeds":
            try:
                sweep["seeds"] = [int(part) for part in value.strip("[]").split(",")]
            except ValueError:
                raise InputError(f"'{text}': expected whole numbers, such as seeds=0,1,2") from None
            sweep["tail"] = name.rpartition(".")[0]
        elif "," in value and value.lstrip()[:1] not in "[\"'{":
            grid[name] = [plans.parse_value(name, part) for part in value.split(",")]
        else:
            single.append(text)
    names = (text.partition("=")[0] for text in texts)
    plans.refuse_twice("seeds" if n.rpartition(".")[2] == "seeds" else n for n in names)
    return single, sweep | {"grid": grid}


def combinations(experiment: dict, given: dict | None = None) -> list[Combination]:
    """Every ``Combination`` of an experiment's ``sweep`` and of one from the command line; empty if
    there is nothing to sweep.

    ``sweep`` may hold ``variants`` (name to ``{stage.parameter: value}``), ``grid``
    (``stage.parameter`` to a list of values), ``seeds`` (a list) and ``tail`` (the first stage that
    seeds are set for).

    Raises:
        InputError: another key, an empty list, or a name that is not ``stage.parameter``.
    """
    empty = {"variants": {}, "grid": {}, "seeds": [], "tail": ""}
    sweep, given = dict(empty), given or {}
    for key, value in (experiment.get("sweep") or {}).items():
        if key not in empty:
            raise InputError(f"sweep: unknown key '{key}'; expected: {', '.join(empty)}")
        sweep[key] = value or empty[key]
        if type(sweep[key]) is not type(empty[key]):
            kind = type(empty[key]).__name__
            raise InputError(f"sweep.{key}: expected a {kind}; fix the experiment")
    grid = sweep["grid"] | given.get("grid", {})
    sweep |= given
    variants, seeds, tail = sweep["variants"], sweep["seeds"], sweep["tail"]
    if tail and tail not in experiment["stages"]:
        names = ", ".join(experiment["stages"])
        raise InputError(f"seeds: unknown stage '{tail}'; this experiment has: {names}")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"sweep.grid.{name}: expected a list of values but got {values!r}")
    for name, values in (grid | {"seeds": seeds}).items():
        for value, count in Counter(map(str, values)).items():
            if count > 1:
                raise InputError(f"{name}: {value} is listed twice; keep one of them")
    for name, values in variants.items():
        if not isinstance(values or {}, dict):
            raise InputError(f"sweep.variants.{name}: expected 'stage.parameter: value'; fix it")
        if twice := [each for each in values or () if each in grid]:
            fault = f"{twice[0]} is in the grid too"
            raise InputError(f"sweep.variants.{name}: {fault}; leave it out of one of them")
    if not (variants or grid or seeds):
        return []
    count = math.prod(map(len, (variants or [0], *grid.values(), seeds or [0])))
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"sweep: expected at most {MOST_COMBINATIONS:,} combinations but there are {count:,}; "
            "sweep fewer values"
        )
    found = []
    for variant, *values in itertools.product(variants or [""], *grid.values()):
        swept = dict(zip(grid, values, strict=True))
        names = ({"variant": variant} if variants else {}) | swept
        overrides = _by_stage((variants.get(variant) or {}) | swept)
        found += [Combination(names, seed, overrides, tail) for seed in seeds or [None]]
    return found


def _by_stage(values):
    """``{"stage.parameter": value}`` as ``{stage: {parameter: value}}``."""
    found = {}
    for name, value in values.items():
        stage, _, parameter = str(name).partition(".")
        if not (stage and parameter):
            raise InputError(f"sweep: expected stage.parameter (random_walk.beta) but got '{name}'")
        found.setdefault(stage, {})[parameter] = value
    return found


def plan_point(
    experiment: dict, point: Combination, *, overrides: dict, **options
) -> list[plans.Planned]:
    """``plan.plan`` of one ``Combination`` and overrides; InputError if both set a parameter."""
    given = {stage: dict(values) for stage, values in overrides.items()}
    for stage, values in point.overrides.items():
        _refuse_both(stage, values, given)
        given[stage] = given.get(stage, {}) | values
    if point.seed is not None and point.tail:
        chain = stages.read_stages()
        names = [name for name in chain if name in experiment["stages"]]
        for name in names[names.index(point.tail) :]:
            if "seed" in chain[name].parameters:
                _refuse_both(name, ["seed"], given)
                given[name] = given.get(name, {}) | {"seed": point.seed}
    elif point.seed is not None:
        _refuse_both("common", ["seed"], given)
        experiment = experiment | {"common": experiment["common"] | {"seed": point.seed}}
    return plans.plan(experiment, given, **options)


def _refuse_both(stage, parameters, given):
    """Raise an InputError if a parameter that a sweep varies is given as well."""
    for name in parameters:
        if name in given.get(stage, {}):
            both = f"is swept, and {given[stage][name]!r} is given for it too"
            raise InputError(f"{stage}.{name}: {both}; leave one of them out")
