"""Where a result comes from: the code with its changes, the packages, the machine."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from wsss.errors import masked
from wsss.io import atomic
from wsss.lab import code, paths, results
from wsss.runtime.devices import cores

SECRET = re.compile("token|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)


def _git(*arguments):
    """The output of a git command in the project; empty outside a repository."""
    try:
        command = ["git", "-C", str(paths.project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return ""


def tags(core_count: int | None = None) -> dict[str, str]:
    """Tags of a run: git commit, whether files were changed, versions, hardware, with the cores
    that it may use (None: those of this process).
    """
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    return {
        "mlflow.source.git.commit": _git("rev-parse", "HEAD").strip(),
        "mlflow.source.git.branch": _git("rev-parse", "--abbrev-ref", "HEAD").strip(),
        "mlflow.source.type": "NOTEBOOK",
        "wsss.git.dirty": str(bool(_git("status", "--porcelain").strip())).lower(),
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
    records = [results.completion(folder) or {} for folder in folders]
    parts = []
    for name, now in versions().items():
        if then := {record.get("versions", {}).get(name, now) for record in records} - {now}:
            parts.append(f"{name} {', '.join(sorted(then))} (now {now})")
    computed = f"reused results were computed with {'; '.join(parts)}; --force computes them again"
    return computed if parts else ""


def packages() -> list[str]:
    """The installed packages as ``name==version``, sorted."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}
    return sorted(found, key=str.lower)


def changes() -> str:
    """The diff of tracked files to the last commit, without credentials."""
    return without_secrets(_git("diff", "HEAD", "--no-color", "--no-ext-diff"))


def without_secrets(text: str) -> str:
    """A text without credentials: those in addresses, the values of secret environment variables,
    and values assigned to names such as ``token``.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 5:
            text = text.replace(value, "***")
    assigned = rf"(?i)(\b[\w-]*(?:{SECRET.pattern})[\w-]*['\"]?\s*[:=]\s*['\"]?)([^\s'\",]{{6,}})"
    return re.sub(assigned, r"\1***", masked(text))


def write(folder: Path) -> list[Path]:
    """Write ``packages.txt`` and, if files were changed, ``changes.diff``; returns the paths."""
    texts = {"packages.txt": "\n".join(packages()), "changes.diff": changes()}
    for name, text in texts.items():
        if text:
            atomic.write_text(folder / name, text + "\n")
        else:  # remove an earlier attempt's
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, text in texts.items() if text]
