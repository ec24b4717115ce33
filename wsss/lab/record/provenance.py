"""Where a result comes from: the code with its changes, the packages, the machine."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from wsss.errors import SECRET, masked
from wsss.io import atomic
from wsss.lab import code, paths, results
from wsss.runtime.devices import cores

OTHERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a hook, for its own repository
# as files are, whatever the user's settings and the attributes of files say
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--text")
DIFF += ("--src-prefix=a/", "--dst-prefix=b/")
MOST_NEW, MOST_NEW_BYTES = 100, 2**20  # files that git does not track yet, in ``changes``

# A secret's name with what assigns to it, as in `TOKEN=`, `"token": ` and `x["TOKEN"] = `
NAME = rf"""(?:{SECRET.pattern})[\w-]{{0,40}}\\?["']?\]?\s*"""
ASSIGNED = rf"{NAME}(?>[:=]+>?\s*)"
# a value in plain quotes that ends there
QUOTED = r"""[rbfu]{0,2}(?P<quote>["'])(?:(?!(?P=quote))[^\\])+(?P=quote)(?=\s*(?:[,)\]};#]|$))"""
SHORT = r"\S{1,5}(?:\s+#.*)?\s*$"  # a number or a type, with a comment
VALUE = re.compile(rf"(?P<name>{ASSIGNED})(?:{QUOTED}|(?!{SHORT})\S.*)", re.IGNORECASE)
# A value that goes on below, in lines that are indented more than its name, or to the quotes that
# close it: its name comes first in the line and no plain quotes follow, or = ends the line.
MARGIN = " \t+-\"'"  # before a line's text: the sign of a diff, a list's, the quote of a notebook
FIRST = rf"""^[{re.escape(MARGIN)}]*+(?:export\s+)?[\w.\["']*?{ASSIGNED}(?!{QUOTED})"""
OPEN = re.compile(rf"""{FIRST}|{NAME}=\s*[(\[{{\\]*(?:\\n",?)?\s*$""", re.IGNORECASE)
TRIPLE = re.compile(rf"""{ASSIGNED}[rbfu]{{0,2}}((\\?["'])\2\2)""", re.IGNORECASE)


def tags(core_count: int | None = None) -> dict[str, str]:
    """Tags of a run: commit, versions, hardware with its cores (None: those of this process)."""
    import torch  # slow to import

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    number, diff = commit(), changes()
    branch = number and git("rev-parse", "--abbrev-ref", "HEAD")
    return {
        "mlflow.source.git.commit": number or "none",
        "mlflow.source.git.branch": (branch or "none").strip(),
        "mlflow.source.type": "NOTEBOOK",
        "wsss.git.dirty": "unknown" if diff is None else str(bool(diff)).lower(),
        "wsss.torch": torch.__version__,
        "wsss.python": platform.python_version(),
        "wsss.device": f"{device}, {core_count or cores()} cores",
    }


def versions() -> dict[str, str]:
    """Versions of the packages that ``pyproject.toml`` lists as able to change results."""
    names = code.settings(paths.project_root()).get("versions", [])
    return {name: metadata.version(name) for name in names}


def other_versions(folders: list[Path]) -> str:
    """One line if completed stages were computed with other versions than those installed."""
    known = [(results.completion(folder) or {}).get("versions", {}) for folder in folders]
    parts = []
    for name, now in versions().items():
        if then := {each.get(name, now) for each in known} - {now}:
            parts.append(f"{name} {', '.join(sorted(then))} (now {now})")
    computed = f"reused results were computed with {'; '.join(parts)}; --force computes them again"
    return computed if parts else ""


def packages() -> list[str]:
    """The installed packages as ``name==version``, sorted."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}
    return sorted(found, key=str.lower)


def write(folder: Path) -> list[Path]:
    """Write ``packages.txt`` and, if files were changed, ``changes.diff``; returns the paths."""
    texts = {"packages.txt": "\n".join([*packages(), ""]), "changes.diff": changes()}
    for name, text in texts.items():
        if text:
            with atomic.write(folder / name) as partial:
                partial.write_bytes(text.encode("utf-8", "surrogateescape"))
        else:  # remove an earlier attempt's
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, text in texts.items() if text]


def git(*arguments: str) -> str | None:
    """What git prints in the project, bytes that are not UTF-8 as surrogates; None if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    command = ["git", "-C", str(paths.project_root()), *arguments]
    with suppress(OSError):
        done = subprocess.run(command, capture_output=True, env=environment)
        if done.returncode in (0, 1):  # 1: files differ
            return done.stdout.decode("utf-8", "surrogateescape")
    return None


def commit() -> str:
    """The project's commit; empty if it has no repository of its own, perhaps one around it."""
    found = git("rev-parse", "--show-toplevel", "HEAD") or ""
    top, _, number = found.rstrip("\n").rpartition("\n")
    return number if top and os.path.samefile(top, paths.project_root()) else ""


def changes() -> str | None:
    """The diff to the last commit, without credentials: of tracked files, and of Python files that
    git neither tracks nor ignores, which a notebook may import, the smallest first. None without a
    commit (see ``commit``). Bytes that are not UTF-8 are surrogates.
    """
    diff = git(*DIFF, "HEAD") if commit() else None
    found = git("ls-files", "--others", "--exclude-standard", "-z", "--", "*.py")
    if diff is None or found is None:
        return None
    new = {name: paths.project_root() / name for name in found.split("\0") if name}
    sizes = sorted((os.lstat(p).st_size, n) for n, p in new.items() if os.path.lexists(p))
    room = MOST_NEW_BYTES
    for place, (size, name) in enumerate(sizes):
        room -= size
        if room < 0 or place == MOST_NEW:
            diff += f"# not here: {len(sizes) - place} more new files, such as {name}\n"
            break
        diff += git(*DIFF, "--no-index", "--", os.devnull, name) or ""
    return without_secrets(diff)


def without_secrets(text: str) -> str:
    """A text without credentials: those in addresses, the values of secret environment variables,
    and values assigned to names such as ``token``. A value in plain quotes is cut out; of any other
    the rest of its line, and the lines below that belong to it.
    """
    secret = {value for name, value in os.environ.items() if SECRET.search(name)}
    parts = {part for value in secret for part in value.splitlines() if len(part) > 5}
    for part in sorted(parts, key=len, reverse=True):  # one may be a part of another
        text = text.replace(part, "***")
    lines, depth, end = [], None, ""
    for line in masked(text).split("\n"):
        margin = line[: len(line) - len(line.lstrip(MARGIN))]
        if line.startswith(("diff --git ", "@@ ")):
            depth, end = None, ""
        if end or (depth is not None and (len(margin) > depth or line == margin)):
            lines.append(line if line == margin else f"{margin}***")
            end = "" if end in line else end
            continue
        depth = max(1, len(margin)) if OPEN.search(line) else None  # 1: the sign below an @@
        triple = TRIPLE.search(line)
        end = triple[1] if triple and triple[1] not in line[triple.end() :] else ""
        lines.append(VALUE.sub(r"\g<name>***", line))
    return "\n".join(lines)
