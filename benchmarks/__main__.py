"""``python -m benchmarks``: times the pairs of ``pairs.py``; keeps the table, its JSON and a plot
in a folder and in MLflow's experiment ``bench``.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt

from benchmarks import harness
from benchmarks.pairs import PAIRS
from wsss.cli.command import positive
from wsss.errors import InputError
from wsss.io import atomic
from wsss.lab.record import mlflow_store, provenance

OUT = Path(__file__).parents[1] / "outputs" / "bench"


def run(only: str, repeats: int, *, out: Path = OUT) -> None:
    """Measure the pairs whose name contains ``only``, print them and record them.

    Raises:
        InputError: there is no such pair, or none could be measured.
    """
    chosen = {name: build for name, build in PAIRS.items() if only.lower() in name.lower()}
    if not chosen:
        raise InputError(f"no pair's name has '{only}'; expected part of: {'; '.join(PAIRS)}")
    rows = []
    for name, build in chosen.items():
        print(f"{name} ...", flush=True)
        try:
            rows.append(harness.measure(name, build(), repeats=repeats))
        except harness.Unavailable as reason:
            print(f"  left out: {reason}")
        else:
            print(f"  {harness.sentence(rows[-1])}", flush=True)
    if not rows:
        raise InputError("nothing was measured; the lines above say what is missing")
    atomic.save_json(out / "bench.json", {"machine": harness.machine(), "rows": rows})
    with atomic.write(out / "bench.md") as partial:
        partial.write_text(harness.table(rows))
    figure = harness.plot(rows)
    figure.savefig(out / "bench.png", bbox_inches="tight", dpi=110)
    plt.close(figure)
    print(f"\n{harness.table(rows)}\n{out}: bench.md, bench.json, bench.png")
    _record(out, rows)


def _record(folder, rows):
    client = mlflow_store.client()
    run = client.create_run(
        mlflow_store.experiment_id("bench"),
        tags={"wsss.machine": harness.machine(), **provenance.tags()},
        run_name=f"bench of {len(rows)}",
    )
    for row in rows:
        name = "".join(letter if letter.isalnum() else "_" for letter in row["name"])
        values = {"figure": row["figure"], "difference": row["difference"]}
        values |= {way: median(row[way]) for way in ("plain", "fast")}
        for key, value in values.items():
            if value is not None:
                client.log_metric(run.info.run_id, f"{name}/{key}", value)
    for name in ("bench.json", "bench.md", "bench.png"):
        client.log_artifact(run.info.run_id, str(folder / name))
    client.set_terminated(run.info.run_id)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Run each hot step and its plain definition in turns; report time, memory and "
        "the difference of their results.",
        epilog='example: python -m benchmarks --only "random walk"',
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="pairs whose name contains this")
    parser.add_argument(
        "--repeats", type=positive, default=7, metavar="N", help="of each way, fewer of slow ones"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="for table and plot (outputs/bench)"
    )
    options = parser.parse_args(arguments)
    try:
        run(options.only, options.repeats, out=options.out)
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
