"""Names are the field's: nothing is called by the left column of CONTRIBUTING's "Words"."""

import ast
import json
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def table(text):
    """Word to better word, of the table under "## Words"; a row holds as many of each."""
    section = text.partition("\n## Words\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    words = {}
    for row in rows:
        old, better = ([word.strip(" `") for word in cell.split(",")] for cell in row)
        words |= dict(zip(old, better, strict=True))
    return words


def python(source):
    """``(name, line)`` of all names in code. A function or class is also spelt ``name()``, and what
    is passed by name (an argument, a dataclass's field, a notebook's parameter) ``name=``.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield f"{node.name}()", node.lineno
            case ast.arg() | ast.keyword():
                yield f"{node.arg}=", node.lineno
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield f"{name}=", node.lineno
            case ast.Constant():
                continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield from ((part, node.lineno) for part in text.split("."))


def notebook(source):
    """The same of a notebook's code cells; the line is the number of the cell."""
    for number, cell in enumerate(json.loads(source)["cells"]):
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            code = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)
            yield from ((name, number) for name, _ in python(code))


def keys(source):
    """The same of a YAML file: its keys are parameters, or ``<stage>.<parameter>``."""
    waiting = [yaml.compose(source)]
    for node in waiting:
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                waiting.append(value)
                for part in key.value.split("."):
                    yield from ((name, key.start_mark.line + 1) for name in (part, f"{part}="))


def faults(root, words):
    """One line for each name that has a better one, in a repository's code, notebooks and
    experiments, and in the names of its files.
    """
    kinds = (
        ("wsss/**/*.py", python),
        ("benchmarks/*.py", python),
        ("notebooks/*.ipynb", notebook),
        ("experiments/*.yaml", keys),
    )

    @cache
    def in_words(name):
        """Those of the words that a name is; a plain word may be a part."""
        parts = f"_{name}_"
        return [
            word for word in words if name == word or (word.isidentifier() and f"_{word}_" in parts)
        ]

    found = set()
    for pattern, read in kinds:
        for path in root.glob(pattern):
            for name, line in read(path.read_text()):
                found |= {(path.relative_to(root), line, word) for word in in_words(name)}
    for path in [*root.glob("wsss/**/*.py"), *root.glob("tests/**/*.py")]:
        stem = path.stem.removeprefix("test_")
        stems = {word for word in (stem, f"{stem}.py") if word in words}
        found |= {(path.relative_to(root), 1, word) for word in stems}
    return [f"{path}:{line}: not {word} but {words[word]}" for path, line, word in sorted(found)]


def test_names_are_the_fields():
    words = table((ROOT / "CONTRIBUTING.md").read_text())
    assert words
    found = faults(ROOT, words)
    assert not found, "\n".join(found)


WORDS = {
    "lanes": "parallel_runs",
    "Courier": "Uploader",
    "long_low": "resize_min",
    "told": "message",
}
WORDS |= {"health.py": "divergence", "fault()": "divergence_reason", "power=": "cam_power"}


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("wsss/lab/a.py", "lanes = 1", "1: not lanes but parallel_runs"),
        ("wsss/lab/a.py", "\nfrom wsss.lab import lanes", "2: not lanes but parallel_runs"),
        ("wsss/lab/a.py", "import wsss.lanes.x as y", "1: not lanes but parallel_runs"),
        ("wsss/lab/a.py", "def _told_of(): pass", "1: not told but message"),
        ("wsss/lab/a.py", "x.told.y = f'{1}'", "1: not told but message"),
        ("wsss/lab/a.py", "print(f'{told}')", "1: not told but message"),
        ("wsss/lab/a.py", "try: f()\nexcept E as told: pass", "2: not told but message"),
        ("wsss/lab/a.py", "def f():\n    global told", "2: not told but message"),
        ("wsss/lab/a.py", "class Courier: pass", "1: not Courier but Uploader"),
        ("wsss/lab/a.py", "async def fault(): pass", "1: not fault() but divergence_reason"),
        ("wsss/lab/a.py", "def f(*, power=1): pass", "1: not power= but cam_power"),
        ("benchmarks/a.py", "f(power=1)", "1: not power= but cam_power"),
        ("wsss/lab/a.py", "class A:\n    power: int = 1", "2: not power= but cam_power"),
        ("wsss/lab/lanes.py", "", "1: not lanes but parallel_runs"),
        ("wsss/train/health.py", "", "1: not health.py but divergence"),
        ("tests/test_health.py", "", "1: not health.py but divergence"),
        ("experiments/a.yaml", "stages:\n  train: {long_low: 3}", "2: not long_low but resize_min"),
        ("experiments/a.yaml", "- x.long_low: [1, 2]", "1: not long_low but resize_min"),
        ("experiments/a.yaml", "cam:\n  power: 3", "2: not power= but cam_power"),
    ],
)
def test_an_old_word_is_found(tmp_path, path, text, found):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert faults(tmp_path, WORDS) == [f"{path}:{found}"]


def test_an_old_word_in_a_notebook_is_found(tmp_path):
    prose = {"cell_type": "markdown", "source": ["long_low is told"]}
    code = {
        "cell_type": "code",
        "source": ["%time\n", "long_low: int = 1  # pixels\n", "power = 1"],
    }
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "10_a.ipynb").write_text(json.dumps({"cells": [prose, code]}))
    assert faults(tmp_path, WORDS) == ["notebooks/10_a.ipynb:1: not long_low but resize_min"]


def test_what_only_looks_like_an_old_word_is_left_alone(tmp_path):
    (tmp_path / "wsss").mkdir()
    code = (
        '"""A fault is told."""\n# lanes\nhealth = np.power(2, untold)\n'
        'RENAMED = {"long_low": "resize_min"}\nexcept_fault = fault(health)\n'
    )
    (tmp_path / "wsss" / "a.py").write_text(code)
    assert faults(tmp_path, WORDS) == []


def test_the_table_is_read():
    text = "# A\n\n## Words\n\n| not | but |\n|---|---|\n| `a`, `b()` | `c`, `d or e` |\n"
    text += "\n## B\n\n| `x` | `y` |\n"
    assert table(text) == {"a": "c", "b()": "d or e"}
    with pytest.raises(ValueError):
        table(text.replace("`c`, ", ""))
