"""Where the repository, its outputs and a stage's folder are."""

import os
from pathlib import Path

from wsss.errors import InputError


def project_root():
    """The folder with ``notebooks/`` and ``experiments/``: the one named by WSSS_PROJECT, the
    repository that holds this package, or the nearest at or above the current folder.
    """
    if named := os.environ.get("WSSS_PROJECT"):
        if not (Path(named) / "notebooks").is_dir():
            raise InputError(f"WSSS_PROJECT={named}: expected a folder with notebooks/; fix it")
        return Path(named)
    here = Path.cwd()
    for folder in (Path(__file__).parents[2], here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise InputError(f"{here}: no notebooks/ here or above; run wsss inside its repository")


def from_root(path):
    """A path given in a parameter: as it is if absolute, else from the repository's root."""
    return project_root() / path


def weights_path(weights):
    """The ``weights`` parameter of a notebook: a path from the repository's root, ``download`` or
    empty as they are.
    """
    return weights if weights in ("", "download") else from_root(weights)


def outputs_root():
    """Where stages keep their files: ``outputs/`` in the repository, or the folder named by
    WSSS_OUTPUTS.
    """
    return Path(os.environ.get("WSSS_OUTPUTS") or project_root() / "outputs")


def stage_folder(name, fingerprint):
    """Where a stage with this fingerprint keeps its results."""
    return outputs_root() / name / fingerprint
