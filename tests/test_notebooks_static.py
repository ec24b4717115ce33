"""What every committed notebook keeps to (CONTRIBUTING.md), read without running it."""

import ast
import io
import tokenize
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cells(notebook):
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


def python(cell):
    """A cell's source without its magics (``%``) and shell lines (``!``)."""
    return "\n".join(
        "" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()
    )


def schema_faults(source):
    """What is wrong in a parameters cell: each line is ``name: type = literal  # comment``."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and token.string[1:].strip()
    }
    faults = []
    for node in ast.parse(source).body:
        line = source.splitlines()[node.lineno - 1]
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        ):
            faults.append(f"{line!r}: not `name: type = default  # comment`")
        elif node.lineno != node.end_lineno:
            faults.append(
                f"{line!r}: must be one line (shorten the comment: ruff wraps long lines)"
            )
        elif node.lineno not in commented:
            faults.append(f"{line!r}: no comment behind it")
        else:
            try:
                ast.literal_eval(node.value)
            except ValueError:
                faults.append(f"{line!r}: the default is not a literal")
    return faults


def test_there_are_notebooks():
    numbers = [path.stem[:2] for path in NOTEBOOKS if path.stem[0].isdigit()]
    assert len(numbers) >= 9 and numbers[0] == "00" and numbers[-1] == "90"
    assert len(NOTEBOOKS) > len(numbers)  # and one to look around in


def test_stages_are_recorded_and_others_are_not():
    for path in NOTEBOOKS:
        sources = "".join(python(cell) for cell in code_cells(nbformat.read(path, as_version=4)))
        for call in ("stage_run.start(", "run.complete("):
            assert (call in sources) == path.stem[0].isdigit(), f"{path.name}: {call}"


def test_format(notebook):
    nbformat.validate(notebook)


def test_opens_with_prose(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def test_has_no_outputs(notebook):
    for cell in code_cells(notebook):
        assert not cell.outputs, f"run `make format`: outputs in\n{cell.source}"
        assert cell.execution_count is None, (
            f"run `make format`: an execution count in\n{cell.source}"
        )


def test_has_one_parameters_cell(notebook):
    (cell,) = parameters_cells(notebook)
    assert cell.cell_type == "code"


def test_parameters_are_a_schema(notebook):
    (cell,) = parameters_cells(notebook)
    assert ast.parse(cell.source).body
    assert schema_faults(cell.source) == []


def test_defines_nothing(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(python(cell))):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), (
                f"{node.name} belongs in wsss/, where it can be tested and sent to other processes"
            )


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('a: int = 1  # pixels\nb: str = "#"  # colour', 0),
        ("a = 1  # pixels", 1),
        ("a: int = 1", 1),
        ('a: str = "# no comment"', 1),
        ("a: int = (\n    1  # pixels\n)", 1),
        ("a: int  # pixels", 1),
        ("a: int = max(1, 2)  # pixels", 1),
        ("import os", 1),
    ],
)
def test_the_schema_check_sees_faults(source, count):
    assert len(schema_faults(source)) == count
