"""The command line wherever it is started: closed streams, other encodings, odd arguments."""

import os
import subprocess
import sys

import pytest

from tests import samples
from wsss import cli


@pytest.fixture
def photos(tmp_path):
    """A folder of two tagged photos, whose names are not ASCII."""
    for name in ("caf\u00e9", "\u732b"):
        (tmp_path / f"{name}.png").write_bytes(samples.encoded(samples.photo(), "PNG"))
    tags = "id,labels\ncaf\u00e9,cr\u00e8me\n\u732b,\u732b\n"
    (tmp_path / "tags.csv").write_text(tags, encoding="utf-8")
    return tmp_path


def run(*arguments, closed="", **environment):
    """Run ``wsss`` in a shell that closes streams."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "wsss", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(closed, photos, tmp_path):
    """As those of cron and systemd. A file opened later must not become the standard output."""
    done = run("data", "folder", str(photos), "--save", str(tmp_path / "own.yaml"), closed=closed)
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "own.yaml").read_text(encoding="utf-8").startswith("photos: ")


def test_the_numbers_of_closed_streams_are_taken(photos):
    code = (
        "import os, subprocess, sys; from wsss.cli import main"
        "; main(['data', 'folder', sys.argv[1]])"
        "; subprocess.run(['sh', '-c', 'echo shown'], check=True)"  # fails if it has no output
        "; os._exit(os.fstat(1).st_rdev != os.stat(os.devnull).st_rdev)"
    )
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code, str(photos)]
    done = subprocess.run(command, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_what_a_terminal_cannot_show_is_escaped(photos):
    done = run("data", "folder", str(photos), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"cr\\xe8me" in done.stdout and b"\\u732b" in done.stdout


def test_files_and_their_names_are_utf8_in_any_locale(photos):
    """What stands here for a locale such as de_DE.ISO-8859-1, which few machines have."""
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("data", "folder", str(photos), **ascii_locale)
    assert done.returncode == 0, done.stderr
    assert "cr\u00e8me" in done.stdout.decode() and "fault" not in done.stdout.decode()
    done = run("run", "experiments/shapes.yaml", "--dry-run", **ascii_locale)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["caf\udce9", "a\0b"])
def test_an_argument_that_is_no_text_is_one_line(text, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "folder", text])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "expected text in UTF-8" in error
