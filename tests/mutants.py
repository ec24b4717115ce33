"""Small changes to the method's code, one at a time, each of which should make some test fail.

    python -m tests.mutants                         a change at every place
    python -m tests.mutants --mutants 40 --seed 0   at 40 places

cosmic-ray makes the changes. Its own runner writes each into the working tree, where an interrupted
run leaves it, and begins a process for each, which takes seconds to import torch. mutmut changes
neither constants nor fields nor most of what is decorated, and first runs all tests to learn which
to repeat. Here a child, forked once torch is imported, compiles the changed source in place of the
file's.
"""

import argparse
import contextlib
import difflib
import io
import os
import random
import resource
import sys
import time
import tomllib
from importlib.machinery import SourceFileLoader
from itertools import chain, islice
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
LEAST = 0.95  # share of the changes that must be noticed
CPU_SECONDS, BYTES = 60, 16 << 30  # of a child; a change that needs more is noticed
TESTS = {  # what should notice changes to a file
    "wsss/affinity.py": "tests/test_affinity.py",
    "wsss/cam.py": "tests/test_cam.py",
    "wsss/crf.py": "tests/test_crf.py",
    "wsss/geometry.py": "tests/test_geometry.py",
    "wsss/metrics.py": "tests/test_metrics.py",
    "wsss/models/heads.py": "tests/test_heads.py",
    "wsss/random_walk.py": "tests/test_random_walk.py",
    "wsss/synthesis.py": "tests/test_synthesis_steps.py",
    "wsss/train/losses.py": "tests/test_losses.py",
}
SOURCES = {file: (ROOT / file).read_text() for file in TESTS}
EQUIVALENT = tomllib.loads((ROOT / "tests/equivalent_mutants.toml").read_text())["changes"]
OPERATORS = [kind() for kind in map(get_operator, operator_names()) if not kind.arguments()]


def squeezed(text):
    return "".join(text.split())


def worth_trying(source, changed):
    """Whether a changed source compiles, and ``EQUIVALENT`` does not explain it."""
    before, after = squeezed(source), squeezed(changed)
    explained = (squeezed(text) for entry in EQUIVALENT for text in entry["to"])
    with contextlib.suppress(SyntaxError):
        compile(changed, "changed", "exec")
        return not any(after.count(text) > before.count(text) for text in explained)
    return False


def mutants(seed):
    """``(file, changed source)``: at each place, in random order, one of its possible changes."""
    chance = random.Random(seed)
    nodes = {file: list(ast_nodes(get_ast(source))) for file, source in SOURCES.items()}
    places = [(file, place) for file in TESTS for place in range(len(nodes[file]))]
    chance.shuffle(places)
    for file, place in places:
        *before, node = nodes[file][: place + 1]
        changes = [(o, n) for o in OPERATORS for n, _ in enumerate(o.mutation_positions(node))]
        chance.shuffle(changes)
        for operator, number in changes:
            number += sum(1 for each in before for _ in operator.mutation_positions(each))
            changed = mutate_code(SOURCES[file], operator, number)
            if worth_trying(SOURCES[file], changed):
                yield file, changed
                break


def run_pytest(*arguments):
    again = "-Wignore:Module already imported:pytest.PytestAssertRewriteWarning"
    options = ["-xq", "-pno:cacheprovider", "--hypothesis-profile=mutants", again]
    return pytest.main([*options, *arguments])


def run_tests(file, source):
    """pytest's exit code for the tests of a file with another source; in a child of its own."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    ours = (f"{ROOT}/wsss/", f"{ROOT}/tests/")
    for name, module in list(sys.modules.items()):
        if name != "__main__" and str(getattr(module, "__file__", "")).startswith(ours):
            del sys.modules[name]
    path, own = str(ROOT / file), SourceFileLoader.get_code

    def get_code(loader, name):
        return compile(source, path, "exec") if loader.path == path else own(loader, name)

    SourceFileLoader.get_code = get_code
    return run_pytest(TESTS[file])


def outcomes(waiting, jobs):
    """``(file, source, exit code)`` of each, in the order of their ends, ``jobs`` at a time."""
    running = {}
    while True:
        for each in islice(waiting, jobs - len(running)):
            pid = os.fork()
            if pid == 0:
                code = pytest.ExitCode.INTERNAL_ERROR
                try:
                    code = run_tests(*each)
                finally:
                    os._exit(code)
            running[pid] = each
        if not running:
            return
        pid, status = os.wait()
        yield *running.pop(pid), os.waitstatus_to_exitcode(status)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, help="how many places; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options, begun = parser.parse_args(), time.monotonic()
    os.chdir(ROOT)
    phases = [Phase.explicit, Phase.generate]  # a failing example need not be made small
    settings.register_profile("mutants", derandomize=True, deadline=None, phases=phases)
    with contextlib.redirect_stdout(io.StringIO()):  # imports what the children will need
        run_pytest("--collect-only", *TESTS.values())
    # first each file as it is, whose tests must pass
    waiting = chain(SOURCES.items(), islice(mutants(options.seed), options.mutants))
    tried = survived = 0
    for file, source, code in outcomes(waiting, os.cpu_count() or 1):
        if source == SOURCES[file]:
            if code:
                sys.exit(f"{TESTS[file]} fails without a change; run it by pytest")
        elif code not in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):  # no import
            tried, survived = tried + 1, survived + (code == 0)
            if code == 0:
                before, after = SOURCES[file].splitlines(), source.splitlines()
                print(*difflib.unified_diff(before, after, file, file, n=1, lineterm=""), sep="\n")
    seconds = time.monotonic() - begun
    print(f"{tried - survived} of {tried} changes noticed, in {seconds:.0f} s", flush=True)
    sys.exit(survived > (1 - LEAST) * tried)


if __name__ == "__main__":
    main()
