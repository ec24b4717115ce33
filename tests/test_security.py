"""Nothing that is read is executed, servers listen to this machine alone, and secrets stay out of
the record.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from wsss import cli
from wsss.errors import masked
from wsss.lab import plan, stages
from wsss.lab.record import provenance
from wsss.lab.run import notebook as run_notebook

ROOT = Path(__file__).parents[1]

HOSTILE = [
    '"; import os; os.system("touch CANARY") #',
    "'''\nimport os\nos.system('touch CANARY')\n'''",
    '"""\n__import__("os").system("touch CANARY")\n"""',
    "\\",
    '\\"; open("CANARY", "w") #',
    "\\\\'\\\"",
    "{open('CANARY', 'w')}",
    "{{ cookiecutter }}",
    "%run CANARY.py",
    "!touch CANARY",
    "\n!touch CANARY\n",
    "\r\n%%bash\r\ntouch CANARY",
    "$(touch CANARY)",
    "`touch CANARY`",
    "\u2028open('CANARY', 'w')",
    "# comment\nopen('CANARY', 'w')",
    "\x00\x1b[31m",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "ünïcode 🐈",
]


@pytest.mark.parametrize("place", range(len(HOSTILE)))
def test_a_parameter_is_a_value_whatever_it_looks_like(place, tmp_path, monkeypatch):
    """The cell that papermill writes, as Python reads it."""
    monkeypatch.chdir(tmp_path)
    text = HOSTILE[place]
    given = {"one": text, "many": [text, text]}
    cell = papermill.translators.PythonTranslator.codify(given)
    names = {}
    exec(cell, names)  # what the kernel does with it
    assert (names["one"], names["many"]) == (text, [text, text])
    assert all(isinstance(node, ast.Assign) for node in ast.parse(cell).body)
    assert not list(tmp_path.iterdir())


def test_parameters_reach_a_real_notebook_as_they_are(tmp_path):
    """The driver's way: values in a file, papermill in a process, a kernel."""
    cells = [
        nbformat.v4.new_code_cell("texts: list[str] = []", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import json\nopen('seen.json', 'w').write(json.dumps(texts))"),
    ]
    about = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=about)
    nbformat.write(notebook, tmp_path / "in.ipynb")
    (tmp_path / "values.json").write_text(json.dumps({"texts": HOSTILE}))
    command = [sys.executable, "-c", run_notebook.EXECUTE, "in.ipynb", "out.ipynb", "values.json"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as run:  # it ends with its input
        printed = run.stderr.read()
    assert run.returncode == 0, printed
    assert json.loads((tmp_path / "seen.json").read_text()) == HOSTILE
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"in.ipynb", "out.ipynb", "values.json", "seen.json"}


@pytest.mark.parametrize("text", HOSTILE)
def test_overrides_are_values_too(text):
    given = plan.parse_overrides([f"dataset.data_root={yaml.safe_dump(text)}"])
    assert given == {"dataset": {"data_root": text}}


def test_a_name_that_is_no_parameter_gets_nowhere():
    stage = stages.read_stages()["random_walk"]
    with pytest.raises(ValueError, match="no such parameter"):
        stage.resolve({"beta = 1\nimport os": 1})


SOURCES = sorted((ROOT / "wsss").rglob("*.py"))
REFUSED = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads"}
REFUSED |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "dill.load", "joblib.load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_reader_can_run_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{path.name}, line {node.lineno}: {name}"
        assert name not in REFUSED, where
        assert given.get("shell") != "True", where
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
        if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            assert given.get("allow_pickle") == "False", where
        if name.endswith((".extract", ".extractall")):
            assert "filter" in given, where


SERVERS = re.compile(r"(mlflow (?:ui|server|models serve)|wsss serve)\b[^|&\n]*(?:\\\n[^|&\n]*)*")


@pytest.mark.parametrize(
    "path",
    [ROOT / "Makefile", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_servers_are_started_for_this_machine_alone(path):
    text = path.read_text()
    assert "0.0.0.0" not in text
    for command in SERVERS.finditer(text):
        if "--" in command[0]:  # not a mention
            assert "--host 127.0.0.1" in command[0], command[0]
    assert "--ip" not in text  # JupyterLab's default is localhost


def test_addresses_lose_their_credentials():
    assert masked("http://me:hunter2@host:5000/x and https://token@h") == (
        "http://***@host:5000/x and https://***@h"
    )
    untouched = "sqlite:////home/me/mlflow.db, a@b.example, runs:/0123/path@2"
    assert masked(untouched) == untouched


def test_a_logged_difference_holds_no_secrets(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdef123456")
    text = "\n".join(
        [
            "+url = 'postgresql://me:hunter2@db/mlflow'",
            "+MLFLOW_TRACKING_PASSWORD=correct-horse",
            "+aws_secret_access_key: 'AKIA/Zm9v'",
            '+    "token": "ghp_0123456789"',
            "+header = f'Bearer abcdef123456'",
            "+beta = 8.0",
            "+tokens = 17",
        ]
    )
    clean = provenance.without_secrets(text)
    for secret in ("hunter2", "correct-horse", "AKIA", "ghp_0123456789", "abcdef123456"):
        assert secret not in clean, secret
    assert "+beta = 8.0" in clean and "+tokens = 17" in clean and clean.count("\n") == 6


def test_an_unreachable_store_is_reported_without_its_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.main(["reproduce", "0" * 32]) == 2
    printed = capsys.readouterr().err
    assert "hunter2" not in printed and printed.count("\n") == 1
