"""``wsss bench``: runs the repository's ``python -m benchmarks``."""

import subprocess
import sys
from pathlib import Path

from wsss.cli.command import add_command
from wsss.errors import InputError

ROOT = Path(__file__).parents[2]


def _bench(arguments):
    if not (ROOT / "benchmarks").is_dir():
        raise InputError(f"{ROOT}: no benchmarks/; run `make bench` in the repository of wsss")
    return subprocess.call([sys.executable, "-m", "benchmarks", "--only", arguments.only], cwd=ROOT)


def add(commands):
    bench = add_command(commands, "bench", _bench, help="time the hot steps of the method")
    bench.add_argument("--only", default="", metavar="TEXT", help="pairs whose name contains this")
