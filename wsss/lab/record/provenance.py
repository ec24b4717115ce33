"""Where a result came from: the code with its changes, the packages, the machine."""

import os
import platform
import re
import subprocess
from importlib import metadata

import torch

from wsss.errors import masked
from wsss.io import atomic
from wsss.lab import code, paths, results
from wsss.runtime.devices import cores

SECRET = re.compile("token|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)


def _git(*arguments):
    """What git says in the repository, or nothing where there is none."""
    try:
        command = ["git", "-C", str(paths.project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return ""


def tags(count=None):
    """Tags of a run: git commit, whether files were changed, versions, hardware.

    Args:
        count: of the cores that it may use; None takes those of this process.
    """
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    )
    return {
        "mlflow.source.git.commit": _git("rev-parse", "HEAD").strip(),
        "mlflow.source.git.branch": _git("rev-parse", "--abbrev-ref", "HEAD").strip(),
        "mlflow.source.type": "NOTEBOOK",
        "wsss.git.dirty": str(bool(_git("status", "--porcelain").strip())).lower(),
        "wsss.torch": torch.__version__,
        "wsss.python": platform.python_version(),
        "wsss.device": f"{device}, {count or cores()} cores",
    }


def versions():
    """Versions of the packages that ``pyproject.toml`` says can change results, by name."""
    return {
        name: metadata.version(name)
        for name in code.settings(paths.project_root()).get("versions", [])
    }


def other_versions(folders):
    """A line where completed stages were computed with other versions of packages than those
    installed, or nothing.
    """
    now, other = versions(), {}
    for folder in folders:
        then = (results.completion(folder) or {}).get("versions", {})
        for name, version in then.items():
            if now.get(name, version) != version:
                other.setdefault(name, set()).add(version)
    if not other:
        return ""
    parts = [f"{name} {', '.join(sorted(then))} (now {now[name]})" for name, then in other.items()]
    return f"reused results were computed with {'; '.join(parts)}; --force computes them again"


def packages():
    """The installed packages, a line ``name==version`` each, sorted."""
    found = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions()}
    return sorted(found, key=str.lower)


def changes():
    """The difference of the tracked files to the last commit, without credentials."""
    return without_secrets(_git("diff", "HEAD", "--no-color", "--no-ext-diff"))


def without_secrets(text):
    """A text without credentials: those in addresses, the values of this process's secret
    environment variables, and what is assigned to names that speak of a secret.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 5:
            text = text.replace(value, "***")
    assigned = rf"(?i)(\b[\w-]*(?:{SECRET.pattern})[\w-]*['\"]?\s*[:=]\s*['\"]?)([^\s'\",]{{6,}})"
    return re.sub(assigned, r"\1***", masked(text))


def write(folder):
    """Write ``packages.txt``, and ``changes.diff`` where files were changed; returns the paths."""
    texts = {"packages.txt": "\n".join(packages()), "changes.diff": changes()}
    written = []
    for name, text in texts.items():
        if not text:  # nor any of an earlier attempt
            (folder / name).unlink(missing_ok=True)
        else:
            with atomic.write(folder / name) as partial:
                partial.write_text(text + "\n")
            written.append(folder / name)
    return written
