"""The engine that maps photos and trains: processes of this machine, unless another was chosen, by
names of modules in environment variables, which reach processes that start later.
"""

import importlib
import os
from types import ModuleType

PHOTOS = "WSSS_PHOTO_ENGINE"  # has `submitting(job)`, for `wsss.photos.map_photos`
TRAINING = "WSSS_TRAINING_ENGINE"  # has `launch(...)`, for `wsss.train.parallel.launch`
ADDRESS = "WSSS_RAY_ADDRESS"


def choose(*, photos: str | None = None, training: str | None = None, address: str | None = None):
    """Use an engine, by its modules' names and the ``ray.init`` address of its cluster, in this
    process and those that it starts; without arguments, use none.
    """
    for variable, value in ((PHOTOS, photos), (TRAINING, training), (ADDRESS, address)):
        set_variable(variable, value)


def set_variable(variable: str, value: str | None) -> None:
    """Set an environment variable, or remove it if the value is None."""
    os.environ.pop(variable, None)
    if value is not None:
        os.environ[variable] = value


def handed_in(variable: str) -> ModuleType | None:
    """The module that an environment variable names, or None if it is not set."""
    name = os.environ.get(variable)
    return importlib.import_module(name) if name else None
