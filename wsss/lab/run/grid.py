"""The points of a sweep: every combination of variants, swept values and seeds."""

import itertools
import math
from typing import NamedTuple

from wsss.errors import InputError
from wsss.lab import plan as plans
from wsss.lab import stages

MOST_COMBINATIONS = 10_000  # a month of the fastest stage


class Combination(NamedTuple):
    """One point of a sweep."""

    names: dict  # column to value: the variant's name and the swept parameters' values
    seed: int | None  # None for the experiment's own
    overrides: dict  # ``{stage: {parameter: value}}``, of seeds too

    @property
    def title(self) -> str:
        seed = {} if self.seed is None else {"seed": self.seed}
        return ", ".join(f"{name} {value}" for name, value in (self.names | seed).items())


def split_overrides(texts: list[str]) -> tuple[list[str], dict]:
    """Separate command-line overrides with one value from those that make a sweep, in the form that
    ``combinations`` takes; InputError for a name that is given twice, or seeds that are no numbers.

    Several values (``random_walk.beta=4,8,16``) make a grid. A list parameter's value is in
    brackets, a text with a comma in quotes. ``seeds=0,1,2`` sets the seeds of all stages,
    ``random_walk.seeds=0,1,2`` those of this and later stages.
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
    seeds are set for); InputError for another key, an empty list, a name of another form, or one
    that is swept twice.
    """
    kinds, given = {"variants": dict, "grid": dict, "seeds": list, "tail": str}, given or {}
    sweep = {key: kind() for key, kind in kinds.items()}
    for key, value in (experiment.get("sweep") or {}).items():
        if key not in kinds:
            raise InputError(f"sweep: unknown key '{key}'; expected: {', '.join(kinds)}")
        sweep[key] = value or kinds[key]()
        if not isinstance(sweep[key], kinds[key]):
            raise InputError(f"sweep.{key}: expected a {kinds[key].__name__}; fix the experiment")
    grid = sweep["grid"] | given.get("grid", {})
    sweep |= given
    variants, seeds = sweep["variants"], sweep["seeds"]
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"sweep.grid.{name}: expected a list of values but got {values!r}")
    for name, values in (grid | {"seeds": seeds}).items():
        plans.refuse_twice(map(str, values), of=name)
    for name, values in variants.items():
        if not isinstance(values or {}, dict):
            raise InputError(f"sweep.variants.{name}: expected 'stage.parameter: value'; fix it")
    if not (variants or grid or seeds):
        return []
    count = math.prod(map(len, (variants or [0], *grid.values(), seeds or [0])))
    if count > MOST_COMBINATIONS:
        expected = f"expected at most {MOST_COMBINATIONS:,} combinations"
        raise InputError(f"sweep: {expected} but there are {count:,}; sweep fewer values")
    seeded, found = _seeded(experiment, sweep["tail"]), []
    for variant, *values in itertools.product(variants or [""], *grid.values()):
        swept = dict(zip(grid, values, strict=True))
        names = ({"variant": variant} if variants else {}) | swept
        overrides = _joined(plans.by_stage(variants.get(variant) or {}), plans.by_stage(swept))
        for seed in seeds or [None]:
            own = {} if seed is None else {stage: {"seed": seed} for stage in seeded}
            found.append(Combination(names, seed, _joined(overrides, own)))
    return found


def _seeded(experiment, tail):
    """What seeds are set for: ``common``, or the stages with a seed from ``tail`` on."""
    if not tail:
        return ["common"]
    chain = stages.read_stages()
    names = [name for name in chain if name in experiment["stages"]]
    if tail not in names:
        known = f"this experiment has: {', '.join(names)}"
        raise InputError(f"seeds: unknown stage '{tail}'; {known}")
    return [name for name in names[names.index(tail) :] if "seed" in chain[name].parameters]


def plan_point(
    experiment: dict, point: Combination, *, overrides: dict, **options
) -> list[plans.Planned]:
    """``plan.plan`` of one ``Combination`` and overrides; InputError if both set a parameter."""
    return plans.plan(experiment, _joined(overrides, point.overrides), **options)


def _joined(given, swept):
    """Two ``{stage: {parameter: value}}`` as one; InputError for a parameter that is in both."""
    found = {stage: dict(values) for stage, values in given.items()}
    for stage, values in swept.items():
        for name in values.keys() & found.setdefault(stage, {}).keys():
            both = f"is swept, and {found[stage][name]!r} is given for it too"
            raise InputError(f"{stage}.{name}: {both}; leave one of them out")
        found[stage] |= values
    return found
