"""A hot step beside its plain definition: time, memory and the difference of their results.

Machines drift, so what counts is the ratio of two times that were taken in turn.
"""

import ctypes
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch.utils.benchmark import select_unit, timer

from wsss.io.text import markdown_table
from wsss.runtime.devices import cores, pick_device, precision, reuse_memory

ROUNDS_SECONDS = 20.0  # a pair is not repeated for longer, but at least twice


def release_memory() -> None:
    """Undo ``reuse_memory``: return freed memory to the system, as glibc does after blocks of
    32 MiB and more were freed; without glibc, do nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return
    mallopt(-4, 1 << 16)  # M_MMAP_MAX
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
    mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD


MEMORY = {"plain": release_memory, "fast": reuse_memory}  # as the system does, and the package


class Unavailable(Exception):
    """Something that a pair needs is missing; the text says what."""


@dataclass(frozen=True)
class Aim:
    """What a pair must reach.

    ``kind`` says how its figure is made of the medians: ``ratio`` plain / fast, at least; ``price``
    fast / plain, at most; ``seconds`` of fast, at most; ``rate`` of ``items`` a second of fast, at
    least; ``none`` where only the difference counts.
    """

    kind: str
    bound: float = 0.0
    items: int = 1

    def figure(self, plain: float, fast: float) -> float:
        """The figure of two medians."""
        figures = {"price": fast / plain, "seconds": fast, "rate": self.items / fast}
        return figures.get(self.kind, plain / fast)

    def reached(self, figure: float) -> bool:
        """Whether a figure is as good as the bound."""
        if self.kind in ("price", "seconds"):
            return figure <= self.bound
        return figure >= self.bound

    def text(self, figure: float) -> str:
        """A figure with its unit, such as ``160x``."""
        form = {
            "none": "–",
            "price": "{:.2f}x the price",
            "seconds": "{:.2g} s",
            "rate": "{:.0f} a second",
        }
        return form.get(self.kind, "{:.3g}x").format(figure)

    @property
    def wanted(self) -> str:
        """The bound with its unit and direction."""
        if self.kind == "none":
            return ""
        return ("≤ " if self.kind in ("price", "seconds") else "≥ ") + self.text(self.bound)


@dataclass(frozen=True)
class Pair:
    """Two ways to one result.

    Args:
        plain, fast: what is timed; called several times.
        aim: what must be reached.
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


def measure(name: str, pair: Pair, *, repeats: int) -> dict:
    """Run a pair in turns and return its row, plain values for JSON.

    Each way runs once for its result, its peak memory and to be warm, then ``repeats`` times, or
    fewer where that would take longer than ``ROUNDS_SECONDS``.
    """
    ways = {"plain": pair.plain, "fast": pair.fast}
    began = timer()
    results, values, peaks = {}, {}, {}
    for way, action in ways.items():
        MEMORY[way]()
        returned, peaks[way] = _with_peak(action)
        number, results[way] = (None, returned) if pair.timed else returned
        values[way] = [] if pair.timed else [float(number)]  # the first time would be a cold one
        del returned
    difference = pair.difference and float(pair.difference(results["plain"], results["fast"]))
    del results
    rounds = int(ROUNDS_SECONDS / max(timer() - began, 1e-9))
    rounds = min(repeats, max(rounds, 2 if pair.timed else 1))
    for turn in range(rounds if pair.unit == "s" else 0):  # a count is the same each time
        for way in sorted(ways, reverse=turn % 2 == 0):  # neither always comes first
            MEMORY[way]()
            began = timer()
            returned = ways[way]()
            values[way].append(timer() - began if pair.timed else returned[0])
            del returned
    figure = pair.aim.figure(median(values["plain"]), median(values["fast"]))
    same = difference is None or difference <= pair.allowed
    return {
        "name": name,
        "aim": pair.aim.wanted,
        "allowed": pair.allowed,
        "unit": pair.unit,
        "peak_mib": {way: peak for way, (peak, _) in peaks.items()},
        "process_mib": {way: process for way, (_, process) in peaks.items()},
        "difference": difference,
        **values,
        "figure": figure,
        "text": pair.aim.text(figure),
        "reached": same and pair.aim.reached(figure),
    }


def _with_peak(action):
    """An action's result, and ``(its peak memory, the whole process's)`` in MiB, None where the
    system does not report it.
    """
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory freed before would hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _mib(status, "VmRSS")
    except (OSError, AttributeError):
        return action(), (None, None)
    result = action()
    peak = _mib(status, "VmHWM")
    return result, (peak - before, peak)


def _mib(status, name):
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024  # in kB


def sentence(row: dict) -> str:
    """A row in one line."""
    verdict = "reached" if row["reached"] else "NOT REACHED"
    return (
        f"{row['text']} ({row['aim'] or 'difference only'})  plain {_spread(row, 'plain')}, fast "
        f"{_spread(row, 'fast')}, difference {_difference(row)}, process at most "
        f"{_peak_text(row['process_mib']['fast'])} MiB with fast: {verdict}"
    )


def table(rows: Iterable[dict]) -> str:
    """The rows as a Markdown table, after a line on the machine."""
    header = ("step", "plain", "fast", "figure", "aim", "peak memory, MiB", "difference (allowed)")
    cells = [
        (
            row["name"],
            _spread(row, "plain"),
            _spread(row, "fast"),
            row["text"] if row["reached"] else f"**{row['text']}, not reached**",
            row["aim"],
            " / ".join(_peak_text(row["peak_mib"][way]) for way in ("plain", "fast")),
            _difference(row),
        )
        for row in rows
    ]
    return f"{machine()}. Median [fastest, slowest].\n\n{markdown_table(header, cells)}\n"


def plot(rows: list[dict]) -> Figure:
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
        axis.annotate(row["text"], right, (6, 0), textcoords="offset points", va="center")
    axis.set(xscale="log", xlabel="seconds", yticks=range(len(shown)))
    axis.set_yticklabels([row["name"] for row in shown])
    axis.margins(x=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def machine() -> str:
    """What the figures were measured on, in a line."""
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    number = str(precision(device)).removeprefix("torch.")
    return (
        f"{name}, {number}, {cores()} cores, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    model = next(models, platform.processor() or platform.machine())
    return f"{model} ({torch.backends.cpu.get_cpu_capability()})"


def _spread(row, way):
    values = row[way]
    if row["unit"] != "s":
        return f"{median(values):,.4g} {row['unit']}"
    unit, scale = select_unit(median(values))
    middle, low, high = (value / scale for value in (median(values), min(values), max(values)))
    return f"{middle:.3g} {unit} [{low:.3g}, {high:.3g}]"


def _difference(row):
    if row["difference"] is None:
        return "–"
    return f"{row['difference']:.2g} ({row['allowed']:g})"


def _peak_text(peak):
    return "–" if peak is None else f"{peak:,.0f}"
