"""Where the repository, its outputs and a stage's folder are."""

import os
from pathlib import Path

import wsss
from wsss.errors import InputError


def project_root():
    """The repository: the folder with ``notebooks/`` that holds the package, or one at or above
    the current folder.
    """
    here = Path.cwd()
    for folder in (Path(wsss.__file__).parents[1], here, *here.parents):
        if (folder / "notebooks").is_dir():
            return folder
    raise InputError(f"{here}: no notebooks/ here or above; run wsss inside its repository")


def from_root(path):
    """A path given in a parameter: as it is if absolute, else from the repository's root."""
    return project_root() / path


def outputs_root():
    """Where stages keep their files: ``outputs/`` in the repository, or the folder named by
    WSSS_OUTPUTS.
    """
    return Path(os.environ.get("WSSS_OUTPUTS") or project_root() / "outputs")


def stage_folder(name, fingerprint):
    return outputs_root() / name / fingerprint
