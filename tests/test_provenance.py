"""The record of the code: whose commit it names, and whether the diff makes the code again."""

import os
import shutil
import subprocess

import pytest

from wsss.lab.record import provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
COMMIT = "mlflow.source.git.commit"
DIRTY = "wsss.git.dirty"


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_all(folder, files):
    """Make a folder a repository with these files, name to bytes; returns the commit."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


FILES = {
    "notebooks/10_a.ipynb": b'{"cells": []}\n',
    "code.py": b"one = 1\n",
    "lines.py": b"one = 1\r\ntwo = 2\r\n",
    "old.py": b"gone = True\n",
    ".gitignore": b"/ignored.py\n/outputs/\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that is a repository, and its commit."""
    root = tmp_path / "project"
    number = commit_all(root, FILES)
    monkeypatch.setenv("WSSS_PROJECT", str(root))
    return root, number


def test_a_run_names_the_commit_and_whether_files_differ_from_it(project, tmp_path):
    root, number = project
    tags = provenance.tags()
    assert (tags[COMMIT], tags[DIRTY]) == (number, "false") and provenance.changes() == ""
    assert [path.name for path in provenance.write(tmp_path)] == ["packages.txt"]
    (root / "ignored.py").write_text("a = 1\n")
    (root / "notes.txt").write_text("no module\n")
    assert provenance.tags()[DIRTY] == "false"  # nothing that the diff would hold
    (root / "new.py").write_text("a = 1\n")
    assert provenance.tags()[DIRTY] == "true" and "+a = 1" in provenance.changes()


@pytest.mark.parametrize("own", ["no repository", "no commit", "an empty .git", "no git"])
def test_another_repositorys_commit_is_not_taken(own, project, tmp_path, monkeypatch):
    """A copy without its own repository may lie inside another, as an unpacked archive does."""
    root, _ = project
    shutil.rmtree(root / ".git")
    commit_all(tmp_path, {"other.py": b""})
    if own == "no commit":
        git(root, "init", "-q")
    elif own == "an empty .git":
        (root / ".git").mkdir()
    elif own == "no git":
        monkeypatch.setenv("PATH", "")
    (root / "code.py").write_text("one = 2\n")
    (tmp_path / "changes.diff").write_text("of an earlier attempt")
    tags = provenance.tags()
    assert (tags[COMMIT], tags["mlflow.source.git.branch"]) == ("none", "none")
    assert tags[DIRTY] == "unknown" and provenance.changes() is None
    assert [path.name for path in provenance.write(tmp_path)] == ["packages.txt"]
    assert not (tmp_path / "changes.diff").exists()


def test_a_hooks_repository_is_not_taken(project, tmp_path, monkeypatch):
    """Git tells a hook its repository in the environment; the project is another one."""
    root, number = project
    commit_all(tmp_path / "other", {"other.py": b""})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    (root / "code.py").write_text("one = 2\n")
    assert provenance.tags()[COMMIT] == number and "+one = 2" in provenance.changes()


CHANGED = {
    "notebooks/10_a.ipynb": b'{"cells": [1]}\n',  # git is set to hide its differences
    "code.py": b"one = '\xe9'  # Latin-1, without a line end \x00",
    "lines.py": b"one = 1\r\ntwo = 3\r\n",
    "notebooks/new module.py": b"x = 1",
    "deep/er/empty.py": b"",
    "caf\u00e9.py": "x = 'caf\u00e9'\r\n\x0c\u2028y = 1\n".encode(),
    "\udce9.py": b"x = 1\n",  # a name in Latin-1
}


def test_git_makes_the_code_again_from_the_commit_and_the_diff(project, tmp_path):
    root, number = project
    settings = {"diff.noprefix": "true", "color.ui": "always", "diff.hide.textconv": "false"}
    for name, value in settings.items():
        git(root, "config", name, value)
    (root / ".git" / "info" / "attributes").write_text("*.ipynb diff=hide\ncode.py -diff\n")
    for name, content in CHANGED.items():
        path = os.fsencode(root / name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    (root / "old.py").unlink()
    *_, diff = provenance.write(tmp_path / "source")
    git(tmp_path, "clone", "-q", str(root), "again")
    git(tmp_path / "again", "checkout", "-q", number)
    git(tmp_path / "again", "apply", "--whitespace=nowarn", str(diff))
    for name, content in CHANGED.items():
        with open(os.fsencode(tmp_path / "again" / name), "rb") as file:
            assert file.read() == content, name
    assert not (tmp_path / "again" / "old.py").exists()


def test_new_files_are_kept_up_to_a_size_and_a_number(project, monkeypatch):
    root, _ = project
    for size in (10, 500, 30):
        (root / f"new{size}.py").write_text(f"a = {'1' * (size - 5)}\n")
    monkeypatch.setattr(provenance, "MOST_NEW_BYTES", 100)
    diff = provenance.changes()
    assert "+++ b/new10.py" in diff and "+++ b/new30.py" in diff
    assert diff.endswith("\n# not here: 1 more new files, such as new500.py\n")
    monkeypatch.setattr(provenance, "MOST_NEW", 1)
    assert "# not here: 2 more new files, such as new30.py\n" in provenance.changes()
