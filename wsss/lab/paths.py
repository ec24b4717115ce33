"""Where the project, its outputs and a stage's folder are."""

import os
from pathlib import Path

from wsss.errors import InputError
from wsss.io.text import check_characters


def project_root() -> Path:
    """The folder with ``notebooks/`` and ``experiments/``: WSSS_PROJECT if set, else the checkout
    that holds this package, else the nearest one at or above the current folder.
    """
    if named := os.environ.get("WSSS_PROJECT"):
        if not (Path(named) / "notebooks").is_dir():
            raise InputError(f"WSSS_PROJECT={named}: expected a folder with notebooks/; fix it")
        return Path(check_characters(named, "WSSS_PROJECT")).absolute()
    current = Path.cwd()
    for folder in (Path(__file__).parents[2], current, *current.parents):
        if (folder / "notebooks").is_dir():
            return Path(check_characters(str(folder), "the path of the project"))
    raise InputError(f"{current}: no notebooks/ here or above; run wsss inside its repository")


def from_root(path: str | Path) -> Path:
    """A parameter's path; a relative one starts at the project's root. InputError if no file can
    have it.
    """
    return project_root() / check_characters(str(path), f"the path {str(path)!r}")


def weights_path(weights: str) -> str | Path:
    """A notebook's ``weights`` parameter: a path, or ``download`` or empty unchanged."""
    return weights if weights in ("", "download") else from_root(weights)


def outputs_root() -> Path:
    """Where stages keep their files: WSSS_OUTPUTS, which starts at the project's root if relative,
    wherever ``wsss`` and the notebooks were started; else ``outputs/``.
    """
    return from_root(os.environ.get("WSSS_OUTPUTS") or "outputs")


def stage_folder(name: str, fingerprint: str) -> Path:
    """Where a stage with this fingerprint keeps its results."""
    return outputs_root() / name / fingerprint


def shown(path: Path) -> str:
    """A path as short as it can be given from the current folder."""
    return min(str(path), os.path.relpath(path), key=len)
