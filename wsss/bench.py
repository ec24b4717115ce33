"""``wsss bench``: hot steps beside their plain definitions, in one run: time, memory, difference.

The pairs stand in ``benchmarks/pairs.py``, the definitions in ``benchmarks/reference.py``. Machines
drift, so what counts is the ratio of two times that were taken in turn.
"""

import ctypes
import importlib
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch

from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab import paths
from wsss.lab.record import delivery, provenance
from wsss.lab.record.journal import Journal
from wsss.runtime.devices import cores, release_memory, reuse_memory

ROUNDS_SECONDS = 20.0  # a pair is not repeated for longer, but at least twice
MEMORY = {"plain": release_memory, "fast": reuse_memory}  # as anyone's process has it, and as ours


class Unavailable(Exception):
    """A pair needs what is not here; the text says what."""


@dataclass(frozen=True)
class Aim:
    """What a pair is held to.

    ``kind`` says how its figure is made of the medians: ``ratio`` plain / fast, at least; ``price``
    fast / plain, at most; ``seconds`` of fast, at most; ``rate`` of ``items`` a second of fast, at
    least; ``none`` where only the difference counts.
    """

    kind: str
    bound: float = 0.0
    items: int = 1

    def figure(self, plain, fast):
        """The figure of two medians."""
        figures = {"price": fast / plain, "seconds": fast, "rate": self.items / fast}
        return figures.get(self.kind, plain / fast)

    def reached(self, figure):
        """Whether a figure is as good as the bound."""
        if self.kind in ("price", "seconds"):
            return figure <= self.bound
        return figure >= self.bound

    def text(self, figure):
        """A figure in words, such as ``160x``."""
        form = {
            "none": "–",
            "price": "{:.2f}x the price",
            "seconds": "{:.2g} s",
            "rate": "{:.0f} a second",
        }
        return form.get(self.kind, "{:.3g}x").format(figure)

    @property
    def wanted(self):
        """The aim in words."""
        if self.kind == "none":
            return ""
        return ("≤ " if self.kind in ("price", "seconds") else "≥ ") + self.text(self.bound)


@dataclass(frozen=True)
class Pair:
    """Two ways to one result.

    Args:
        plain, fast: what is timed; called several times.
        aim: an ``Aim``.
        difference: of two results, a number; None where they cannot be compared.
        allowed: the largest difference that is not a fault.
        unit: of the numbers.
        timed: False where both ways measure something themselves, and return ``(number, result)``.
    """

    plain: Callable
    fast: Callable
    aim: Aim
    difference: Callable | None = lambda plain, fast: float((plain - fast).abs().max())
    allowed: float = 0.0
    unit: str = "s"
    timed: bool = True


def pairs(only=""):
    """Name to builder of the pairs whose name holds ``only``.

    Raises:
        InputError: there is none.
    """
    root = str(paths.project_root())
    if root not in sys.path:
        sys.path.insert(0, root)  # the repository is where the pairs are, not the package
    everything = importlib.import_module("benchmarks.pairs").PAIRS
    found = {name: build for name, build in everything.items() if only.lower() in name.lower()}
    if not found:
        names = "; ".join(everything)
        raise InputError(f"no pair's name holds '{only}'; expected part of one of: {names}")
    return found


def measure(name, pair, repeats):
    """Run a pair in turns and return its row: a dict that JSON takes.

    Each way runs once for its result, its peak memory and to be warm, then ``repeats`` times, or
    fewer where that would take longer than ``ROUNDS_SECONDS``.
    """
    ways = {"plain": pair.plain, "fast": pair.fast}
    row = {"name": name, "aim": pair.aim.wanted, "allowed": pair.allowed, "unit": pair.unit}
    began = time.monotonic()
    results, values, row["peak_mib"], row["process_mib"] = {}, {}, {}, {}
    for way, action in ways.items():
        MEMORY[way]()
        given, row["peak_mib"][way], row["process_mib"][way] = _with_peak(action)
        number, results[way] = (None, given) if pair.timed else given
        values[way] = [] if pair.timed else [float(number)]  # the clock waits until all is warm
    row["difference"] = None
    if pair.difference:
        row["difference"] = float(pair.difference(results["plain"], results["fast"]))
    del results, given
    rounds = int(ROUNDS_SECONDS / max(time.monotonic() - began, 1e-9))
    rounds = min(repeats, max(rounds, 2 if pair.timed else 1))
    for turn in range(rounds if pair.unit == "s" else 0):  # a count is the same each time
        for way in sorted(ways, reverse=turn % 2 == 0):  # neither always comes first
            MEMORY[way]()
            began = time.perf_counter()
            given = ways[way]()
            values[way].append(time.perf_counter() - began if pair.timed else given[0])
            del given
    row |= values
    figure = pair.aim.figure(median(values["plain"]), median(values["fast"]))
    row["figure"], row["told"] = figure, pair.aim.text(figure)
    same = row["difference"] is None or row["difference"] <= pair.allowed
    row["reached"] = same and pair.aim.reached(figure)
    return row


def run(only="", *, repeats=7, out=None):
    """Measure the pairs, show them, and keep the table, its JSON and a plot in a folder and in
    MLflow.

    Returns:
        the folder.
    """
    chosen = pairs(only)
    folder = Path(out) if out else paths.project_root() / "outputs" / "bench"
    rows = []
    for name, build in chosen.items():
        print(f"{name} ...", flush=True)
        try:
            row = measure(name, build(), repeats)
        except Unavailable as reason:
            print(f"  left out: {reason}")
            continue
        print("  " + sentence(row), flush=True)
        rows.append(row)
    if not rows:
        raise InputError("nothing was measured; the lines above say what is missing")
    atomic.save_json(folder / "bench.json", {"machine": machine(), "rows": rows})
    with atomic.write(folder / "bench.md") as partial:
        partial.write_text(table(rows))
    figure = plot(rows)
    figure.savefig(folder / "bench.png", bbox_inches="tight", dpi=110)
    plt.close(figure)
    _log(folder, rows)
    return folder


def sentence(row):
    """A row in one line."""
    verdict = "reached" if row["reached"] else "NOT REACHED"
    return (
        f"{row['told']} ({row['aim'] or 'difference only'})  plain {_spread(row, 'plain')}, fast "
        f"{_spread(row, 'fast')}, difference {_difference(row)}, process at most "
        f"{_peak_text(row['process_mib']['fast'])} MiB with fast: {verdict}"
    )


def table(rows):
    """The rows as a Markdown table, after a line on the machine."""
    lines = [
        f"{machine()}. Median [fastest, slowest].",
        "",
        "| step | plain | fast | figure | aim | peak memory, MiB | difference (allowed) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peaks = " / ".join(_peak_text(row["peak_mib"][way]) for way in ("plain", "fast"))
        figure = row["told"] if row["reached"] else f"**{row['told']}, not reached**"
        cells = (row["name"], _spread(row, "plain"), _spread(row, "fast"), figure, row["aim"])
        lines.append(f"| {' | '.join(cells)} | {peaks} | {_difference(row)} |")
    return "\n".join(lines) + "\n"


def plot(rows):
    """Times of both ways, a line a pair, on a logarithmic axis."""
    shown = [row for row in rows if row["unit"] == "s"][::-1] or rows
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(shown) + 1), layout="constrained")
    for place, row in enumerate(shown):
        ends = median(row["plain"]), median(row["fast"])
        axis.plot(ends, [place, place], color="0.75", zorder=1)
        for way, colour in (("plain", "tab:gray"), ("fast", "tab:blue")):
            label = way if place == 0 else None
            axis.scatter(row[way], [place] * len(row[way]), s=14, color=colour, label=label)
        right = max(row["plain"] + row["fast"]), place
        axis.annotate(row["told"], right, (6, 0), textcoords="offset points", va="center")
    axis.set(xscale="log", xlabel="seconds", yticks=range(len(shown)))
    axis.set_yticklabels([row["name"] for row in shown])
    axis.margins(x=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def machine():
    """What the figures were taken on, in a line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return (
        f"{device}, {cores()} cores, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    return f"{model or platform.machine()} ({', '.join(units) or 'no vector units named'})"


def _with_peak(action):
    """An action's result, the MiB of memory that it took at most, and what the process then had;
    None where the system does not tell.
    """
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _kib(status, "VmRSS")
    except (OSError, AttributeError):
        return action(), None, None
    result = action()
    peak = _kib(status, "VmHWM")
    return result, (peak - before) / 1024, peak / 1024


def _kib(status, name):
    return next(
        int(line.split()[1])
        for line in status.read_text().splitlines()
        if line.startswith(f"{name}:")
    )


def _spread(row, way):
    values = row[way]
    if row["unit"] != "s":
        return f"{median(values):,.4g} {row['unit']}"
    unit, factor = ("ms", 1000) if median(values) < 1 else ("s", 1)
    middle, low, high = (factor * value for value in (median(values), min(values), max(values)))
    return f"{middle:.3g} {unit} [{low:.3g}, {high:.3g}]"


def _difference(row):
    if row["difference"] is None:
        return "–"
    return f"{row['difference']:.2g} ({row['allowed']:g})"


def _peak_text(peak):
    return "–" if peak is None else f"{peak:,.0f}"


def _log(folder, rows):
    journal = Journal(folder, fresh=True)
    tags = {"wsss.machine": machine()} | provenance.tags()
    journal.begin("bench", f"bench of {len(rows)}", tags)
    for row in rows:
        name = "".join(letter if letter.isalnum() else "_" for letter in row["name"])
        told = {key: row[key] for key in ("figure", "difference") if row[key] is not None}
        journal.metrics({f"{name}/{key}": value for key, value in told.items()})
        journal.metrics({f"{name}/{way}": median(row[way]) for way in ("plain", "fast")})
    for name in ("bench.json", "bench.md", "bench.png"):
        journal.file(folder / name)
    journal.end("FINISHED")
    with delivery.Courier() as courier:
        courier.carry(folder)
