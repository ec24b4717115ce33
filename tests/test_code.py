"""Which code a notebook reaches: what can change its results is seen, and nothing else."""

import gc
import re
import sys
import threading
import time

import pytest

from wsss.errors import InputError
from wsss.lab import code, paths, stages

PROJECT = """
[tool.wsss.stages]
package = "toy"
without = ["plots"]
"""


STATS = """
def mean(x):
    return add(x) / len(x)
def add(x):
    return sum(x)
def most(x):
    return max(x)
"""
CHANGED = STATS.replace("return sum(x)", "return sum(x) + 1")  # which mean calls


@pytest.fixture
def write(tmp_path):
    """Writes files of the package ``toy``; returns the function from a notebook's cells to their
    reach.
    """
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("")

    def write(**files):
        for name, source in files.items():
            path = tmp_path / "toy" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return lambda *cells: code.reached([*cells], tmp_path)

    return write


# a cell, and after "# NAME.py" the sources of files beside stats.py
SEEN = {
    "name": "from toy.stats import mean; mean([1])",
    "alias": "from toy.stats import mean as m; m([1])",
    "dotted": "import toy.stats; toy.stats.mean([1])",
    "dotted alias": "import toy.stats as s; print(s.mean([1]))",
    "attribute": "from toy import stats; calls = {'a': stats.mean}",
    "re-export": """
from toy import mean; mean([1])
# __init__.py
from toy.stats import mean
""",
    "relative re-export": """
import toy; toy.mean([1])
# __init__.py
from .stats import mean
""",
    "front door": """
import toy; toy.mean([1])
# __init__.py
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from toy.stats import mean
def __getattr__(name):
    return load(name)
""",
    "lazy import of a name": """
from toy.a import f
f([1])
# a.py
def f(x):
    from toy.stats import mean
    return mean(x)
""",
    "lazy import of a module": """
from toy.a import f
f([1])
# a.py
def f(x):
    from toy import stats
    return stats.mean(x)
""",
    "two lazy imports under one name": """
from toy.a import f
f([1])
# a.py
def f(x):
    from toy.stats import mean as m
    return m(x)
def g(x):
    from toy.b import m
    return m(x)
# b.py
m = len
""",
    "an import that hides a definition elsewhere": """
from toy.a import f
f([1])
# a.py
from toy import stats
def mean(x):
    return stats.mean(x)
def f(x):
    return mean(x)
def g():
    from toy.b import mean
# b.py
mean = len
""",
    "nested package": """
from toy.sub.b import f
f()
# sub/b.py
from UP.stats import mean
def f():
    mean([1])
""".replace("UP.", ".."),
    "method": """
from toy.a import A
A()
# a.py
from toy import stats
class A:
    def f(self):
        return stats.mean([1])
""",
    "base class": """
from toy.a import B
B()
# a.py
from toy import stats
class A:
    value = stats.mean([1])
class B(A):
    pass
""",
    "attribute set after the class": """
from toy.a import A
A()
# a.py
from toy import stats
class A:
    pass
A.value = stats.mean([1])
""",
    "dataclass default": """
from toy.a import A
A()
# a.py
from dataclasses import dataclass, field
from toy import stats
@dataclass
class A:
    x: float = field(default_factory=stats.mean)
""",
    "default": """
from toy.a import f
f()
# a.py
from toy.stats import mean
def f(x=mean([1])):
    return x
""",
    "decorator": """
from toy.a import f
f()
# a.py
from toy.stats import mean
@mean
def f():
    pass
""",
    "annotation": """
from toy.a import f
f()
# a.py
from toy.stats import mean
def f(x: mean):
    pass
""",
    "star import": """
from toy.a import f
f()
# a.py
from toy.stats import *
def f():
    return mean([1])
""",
    "table": """
from toy.a import f
f("mean")
# a.py
from toy.stats import mean
TABLE = {}
TABLE["mean"] = mean
def f(name):
    return TABLE[name]
""",
    "walrus": """
from toy.a import f
f()
# a.py
from toy.stats import mean
LIST = [first := mean]
def f():
    return first
""",
    "import that may fail": """
from toy.a import f
f()
# a.py
try:
    from toy.fast import mean
except ImportError:
    from toy.stats import mean
def f():
    mean([1])
""",
    "patch when a module is imported": """
from toy.a import f
f()
# a.py
import toy.patch
def f():
    pass
# patch.py
import numpy
from toy.stats import mean
numpy.mean = mean
""",
    "patch when the package is imported": """
from toy.a import f
f()
# __init__.py
from toy.stats import mean
print(mean([1]))
# a.py
def f():
    pass
""",
    "import for its effect": """
import toy.patch
# patch.py
from toy.stats import mean
print(mean([1]))
""",
    "registered by a decorator": """
from toy.a import f
f("b")
# a.py
import toy.b
from toy.c import KNOWN
def f(name):
    KNOWN[name]()
# b.py
from toy import stats
from toy.c import known
@known
def b():
    stats.mean([1])
# c.py
KNOWN = {}
def known(f):
    KNOWN[f.__name__] = f
    return f
""",
}


@pytest.mark.parametrize("case", SEEN)
def test_a_change_behind_a_name_is_seen(write, case):
    cell, *rest = re.split(r"^# (.*)\.py$", SEEN[case], flags=re.MULTILINE)
    files = dict(zip(rest[::2], rest[1::2], strict=True))
    before = write(stats=STATS, **files)(cell)
    after = write(stats=CHANGED)(cell)
    assert {name for name in after if after[name] != before[name]} == {"stats.py"}
    assert before.keys() == after.keys()


@pytest.mark.parametrize(
    "source",
    [
        STATS.replace("max", "min"),  # a definition that nothing reaches
        STATS + "other = 3\nclass Other: pass\nfrom os import path\n",
        '"""About."""\n# why\n' + STATS.replace("\n", "  # so\n"),
        STATS.replace("(x):\n", '(x):\n    """What."""\n'),
        STATS.replace("add(x) / len(x)", "(\n        add(x)\n        / len(x)\n    )"),
    ],
)
def test_what_changes_no_result_is_not_seen(write, source):
    cell = "from toy.stats import mean\nmean([1])"
    before = write(stats=STATS)(cell)
    assert list(before) == ["stats.py"] and write(stats=source)(cell) == before


def test_parts_that_cannot_change_results_are_left_out(write):
    reach = write(stats=STATS, **{"plots/__init__": "", "plots/bars": "def draw(x): pass"})
    assert [*reach("from toy.plots import bars\nfrom toy import stats\nbars.draw(stats.mean)")] == [
        "stats.py"
    ]


def test_a_name_that_is_not_found_counts_as_the_whole_file(write):
    cell = "from toy import stats\ngetattr(stats, name)([1])"
    before = write(stats=STATS)(cell)
    assert write(stats=STATS.replace("max", "min"))(cell) != before
    hidden = "for name in 'ab':\n    globals()[name] = most\n"
    cell = "from toy.stats import a\na([1])"
    before = write(stats=STATS + hidden)(cell)
    assert write(stats=STATS.replace("max", "min") + hidden)(cell) != before


def test_what_comes_from_outside_the_package_counts_where_it_is_used(write):
    source = "from math import {} as f\nfrom os import {} as other\ndef g(x): return f(x)\n"
    cell = "from toy.a import g\ng(1)"
    one, two, three = (
        write(a=source.format(*names))(cell)
        for names in (("sin", "path"), ("cos", "path"), ("sin", "sep"))
    )
    assert one != two and one == three


def test_cells_count_without_comments_formatting_and_unused_imports():
    base = code.digest(["import math\nx = math.sin(1)"])
    assert base == code.digest(["import math, os  # for later", "x = (math.sin(\n    1))"])
    assert base != code.digest(["import numpy as math\nx = math.sin(1)"])
    assert base != code.digest(["import math\nx = math.sin(2)"])
    with pytest.raises(InputError, match=r"line 1 is not \('%matplotlib"):
        code.digest(["%matplotlib inline"])


def test_a_project_without_a_package_reaches_nothing(tmp_path):
    assert code.reached(["import toy"], tmp_path) == {}


def test_the_real_notebooks_reach_their_code_quickly():
    began = time.process_time()
    reach = {name: {*stage.code} for name, stage in stages.read_stages().items()}
    seconds = time.process_time() - began
    assert all(len(files) > 1 for files in reach.values())
    walks = {name for name, files in reach.items() if "random_walk.py" in files}
    assert walks == {"random_walk", "evaluate"}
    assert "crf.py" not in reach["train_cam"] and "crf.py" in reach["affinity_labels"]
    assert "cam.py" in reach["infer_cam"] and "train/loop.py" in reach["train_affinity"]
    assert not [name for files in reach.values() for name in files if name.startswith("lab/")]
    assert (paths.project_root() / "wsss" / "crf.py").exists()
    assert seconds < 2, "0.4 s on an idle core"


class _Cycle:
    """Garbage that runs Python when it is collected, so that threads change in between."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        list(range(20))


def test_threads_parse_at_the_same_time():
    source = "\n".join(f"x = [((a + {i})) * 2 for b in c if d(e(f(g)))]" for i in range(50))
    failed = []

    def parse_often():
        try:
            for _ in range(30):
                for _ in range(30):
                    _Cycle()
                code.parse(source)
        except SystemError as error:
            failed.append(error)

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    try:
        threads = [threading.Thread(target=parse_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
    assert not failed
