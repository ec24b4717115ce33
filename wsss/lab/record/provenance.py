"""Where a result comes from: the code with its changes, the packages, the machine."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from wsss.io import atomic
from wsss.lab import code, paths, results
from wsss.lab.record import repository
from wsss.runtime.devices import cores

NONE = "none"  # tag of a run without a commit


def tags(core_count: int | None = None) -> dict[str, str]:
    """Tags of a run: git commit, whether the code differs from it (``unknown`` if there is none),
    versions, hardware, with the cores that it may use (None: those of this process).
    """
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    number, diff = repository.commit(), repository.changes()
    branch = repository.git("rev-parse", "--abbrev-ref", "HEAD") if number else None
    return {
        "mlflow.source.git.commit": number or NONE,
        "mlflow.source.git.branch": (branch or NONE).strip(),
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


def write(folder: Path) -> list[Path]:
    """Write ``packages.txt`` and, if files were changed, ``changes.diff``; returns the paths."""
    texts = {"packages.txt": "\n".join([*packages(), ""]), "changes.diff": repository.changes()}
    for name, text in texts.items():
        if text:
            with atomic.write(folder / name) as partial:
                partial.write_bytes(text.encode("utf-8", "surrogateescape"))
        else:  # remove an earlier attempt's
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, text in texts.items() if text]
