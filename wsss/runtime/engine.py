"""What maps photos and trains: processes of this machine, unless an engine hands itself in.

An engine hands in names of modules, not the modules: names are environment variables, so they reach
the kernels and processes that start later, and nothing of an engine is imported before it is used.
"""

import importlib
import os
from types import ModuleType

PHOTOS = "WSSS_PHOTO_ENGINE"  # has `submitting(job)`, for `wsss.photos.map_photos`
TRAINING = "WSSS_TRAINING_ENGINE"  # has `launch(...)`, for `wsss.train.parallel.launch`
ADDRESS = "WSSS_RAY_ADDRESS"


def choose(*, photos: str | None = None, training: str | None = None, address: str | None = None):
    """Use an engine in this process and in those that it starts; without arguments, use none.

    Args:
        photos: name of the module that maps photos.
        training: name of the module that trains.
        address: where the engine's Ray cluster answers, as ``ray.init`` takes it.
    """
    for variable, value in ((PHOTOS, photos), (TRAINING, training), (ADDRESS, address)):
        set_variable(variable, value)


def set_variable(variable: str, value: str | None) -> None:
    """Set an environment variable, or remove it where the value is None."""
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def handed_in(variable: str) -> ModuleType | None:
    """The module that an environment variable names, or None where it is not set."""
    name = os.environ.get(variable)
    return importlib.import_module(name) if name else None


def ray_address() -> str | None:
    """The address of the Ray cluster in use, or None."""
    return os.environ.get(ADDRESS)
