"""Nothing that is read is executed, servers listen to this machine alone, and secrets stay out of
the record.
"""

import ast
import json
import re
import subprocess
import sys
import time
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
    tmp_path = tmp_path / "a {texts} {b}"  # papermill puts parameters into paths
    tmp_path.mkdir()
    nbformat.write(notebook, tmp_path / "in.ipynb")
    (tmp_path / "values.json").write_text(json.dumps({"texts": HOSTILE}))
    files = [run_notebook._pattern(tmp_path / name) for name in ("in.ipynb", "out.ipynb")]
    command = [sys.executable, "-c", run_notebook.EXECUTE, *files, "values.json"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as run:  # it ends with its input
        printed = run.stderr.read()
    assert run.returncode == 0, printed
    assert json.loads((tmp_path / "seen.json").read_text()) == HOSTILE
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"in.ipynb", "out.ipynb", "values.json", "seen.json"}


@pytest.mark.parametrize("text", [text.replace("\0", "") for text in HOSTILE])
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


ANY_MODE = {"Folder", "Image", "datasets", "gzip", "os", "tarfile"}  # open()s of another kind


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_are_utf8_in_any_locale(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        place, _, name = ast.unparse(node.func).rpartition(".")
        words = [word.arg for word in node.keywords]
        texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if name in ("read_text", "write_text") and place not in ("", "atomic", "text"):
            assert "encoding" in words or "utf-8" in texts, f"{path.name}, line {node.lineno}"
        if name in ("open", "fdopen") and place not in ANY_MODE:
            binary = any("b" in str(text) for text in texts)
            assert binary or "encoding" in words, f"{path.name}, line {node.lineno}"


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
    untouched = "sqlite:////home/me/mlflow.db, a@b.example, runs:/0123/path@2, s3://b/c@2?d=1"
    assert masked(untouched) == untouched


@pytest.mark.parametrize("around", ["{}", "see {}, and a@b.example", "x = '{}'  # a@b", "({})"])
@pytest.mark.parametrize(
    "address",
    [
        "https://user:TOP@host/path",
        "https://user:TOP@TOP@host",
        "https://user:TOP/TOP@host:5000/path",
        "https://user:TOP//TOP/@host",
        "https://user:TOP'TOP@host",
        "https://TOP@host",
        "https://TOP@TOP@host/path",
        "postgresql+psycopg://user:TOP?TOP#TOP@host/db",
        "https://host/path?token=TOP",
        "https://host/path?a=1&access_token=TOP#part",
        "https://host/path#access_token=TOP&a=1",
        "https://host/path?sv=1&sig=TOP%2FTOP%3D&se=2",
        "https://host/path?X-Amz-Credential=TOP%2Fus&X-Amz-Signature=TOP&X-Amz-Date=1",
        "https://host/path?X-Goog-Signature=TOP",
        "https://host/path?key=TOP&AWSAccessKeyId=TOP",
        "gs://bucket/file?password=TOP",
    ],
)
def test_addresses_lose_any_credentials(address, around):
    text = masked(around.format(address))
    assert "TOP" not in text and "host" in text.replace("bucket", "host"), text
    start, end = around.split("{}")
    assert text.startswith(start) and text.endswith(end), text


def test_two_addresses_in_one_word_are_two():
    assert masked("http://a:b@c,http://d:e@f") == "http://***@c,http://***@f"


def test_masking_takes_time_that_grows_with_the_text():
    texts = ["://" + "a:" * 50_000, "?" + "token" * 20_000, "token-" * 20_000, "token=(" * 10_000]
    texts += ["token='''" * 10_000, "token='''\n" + "a\n" * 50_000]
    texts += ['a="' * 30_000, "'" * 50_000, "password: \n" * 9_000, "x" * 500_000]
    began = time.process_time()
    for text in texts:
        provenance.without_secrets(text)
    assert time.process_time() - began < 8


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


SECRETS = {
    "blanks": '+DB_PASSWORD="TOP TOP TOP"',
    "a comma": "+password='TOP,TOP'",
    "a quote": "+token: TOP'TOP",
    "the other quote": """+token = "TOP'TOP",""",
    "an escaped quote": r"""+token = "TOP\"TOP\"TOP" """,
    "blanks without quotes": "+  password: TOP TOP  # TOP",
    "short": "+pin_secret='TOP'",
    "joined": '+token = "TOP" + "TOP"',
    "an item": '+os.environ["API_KEY"] = "TOP TOP"',
    "an attribute": '+        self.api_token = f"TOP TOP"',
    "an annotation": '+token: str = "TOP TOP"',
    "a header": "+    headers = {'Authorization': 'Bearer TOP'}",
    "two on a line": """+connect(password="TOP TOP", token='TOP')""",
    "compared": '+if password == "TOP TOP":',
    "a shell's": "+export AWS_SECRET_ACCESS_KEY=TOPTOPTOP",
    "a cell's": r"""+    "token = \"TOP TOP\"\n",""",
    "JSON": '+{"a": 1, "client_secret": "TOP TOP", "b": 2}',
    "in brackets": '+PASSWORD = (\n+    "TOP TOP "\n+    "TOP"\n+)\n+after = 1',
    "an argument's": '+connect(\n+    password=\n+        "TOP",\n+    after=1)',
    "continued": '+token = \\\n+    "TOP"\n+after = 1',
    "a cell's in brackets": "\n".join(
        [r'+    "token = (\n",', r'+    "    \"TOP\"\n",', r'+    ")\n",', "+  after"]
    ),
    "a block": "+ password: |\n+    TOP TOP\n+\n+    TOP\n+ after: 1",
    "folded": "+- token: >-\n+    TOP\n+  after: 1",
    "a long scalar": "+password: TOPTOPTOP\n+  TOP TOP\n+after: 1",
    "an item's": '+"token":\n+  "TOP TOP"\n+after',
    "both versions": ' PASSWORD = (\n-    "TOP"\n+    "TOP TOP"\n )\n+after = 1',
    "a hunk's": '@@ -9 +9 @@ PASSWORD = (\n-    "TOP"\n+    "TOP TOP"\n )\n+after = 1',
    "three quotes": '+PRIVATE_KEY = """\n+-----BEGIN KEY-----\n+TOP\n+-----END KEY-----"""\n+after',
    "from the start": '+PRIVATE_KEY = """TOP\n+TOP\n+"""\n+after = 1',
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS.keys())
def test_no_form_of_an_assigned_secret_is_logged(text):
    clean = provenance.without_secrets(f"+before = 1\n{text}\n+last = 1\n")
    assert "TOP" not in clean, clean
    assert clean.startswith("+before = 1\n") and clean.endswith("\n+last = 1\n"), clean
    assert "after" not in text or "after" in clean, clean
    assert clean.count("\n") == text.count("\n") + 3  # each line has its place


CODE = """\
+class Token:
+    \"\"\"A word.\"\"\"
+    tokens: int
+
+    def split(self, token_count: int = 3, words=()):
+        if self.tokens:
+            return [word for word in words]
+        for token in words:
+            yield token
+        token_count += 1
+        self.tokens = 17  # of a sentence
+        return tokenize(words, 3)
+    "password": "",
+def password_of(user):
+    return None
"""


def test_code_that_speaks_of_tokens_stays():
    """All but the value that is assigned: the record is to show what ran."""
    kept = [line for line in CODE.splitlines() if "token_count: int" not in line]
    clean = provenance.without_secrets(CODE).splitlines()
    assert [line for line in clean if "token_count:" not in line] == kept


def test_secrets_of_the_environment_are_cut_whole(monkeypatch):
    """Though one is the beginning of another, or has several lines."""
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdef123456\nghijkl")
    text = provenance.without_secrets("+x = 'abcdef123456'\n+ghijkl\n+abcdef")
    assert text == "+x = '***'\n+***\n+***"


def test_an_unreachable_store_is_reported_without_its_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.main(["reproduce", "0" * 32]) == 2
    printed = capsys.readouterr().err
    assert "hunter2" not in printed and printed.count("\n") == 1
