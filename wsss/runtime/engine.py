"""Where photos and trainings are worked on: in processes of this machine, or on a Ray cluster."""

import importlib.util
import os

from wsss.errors import InputError
from wsss.io import mirror

ENGINES = ("processes", "ray")
VARIABLE = "WSSS_RAY_ADDRESS"  # by which notebooks' kernels know of the cluster


def choose(engine, address=None, mirrored=None):
    """Have what this process and those that it starts do run on an engine.

    Args:
        engine: one of ``ENGINES``.
        address: of the cluster, as ``ray.init`` takes it; None takes the one that this machine is
            part of.
        mirrored: the address of the cluster's files (``wsss.io.mirror``); None is for machines that
            see the same folders.

    Raises:
        InputError: Ray is not installed, no cluster or no mirror answers, or there is an address
            without Ray.
    """
    if engine == "processes":
        for option, given in (("--address", address), ("--mirror", mirrored)):
            if given:
                raise InputError(f"{option} {given}: is a Ray cluster's; add --engine ray")
        os.environ.pop(VARIABLE, None)
        mirror.choose(None)
        return
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray: Ray is not installed; pip install 'wsss[cluster]'")
    from wsss.cluster import session  # needs Ray

    os.environ[VARIABLE] = address or "auto"
    session.check()
    mirror.choose(mirrored)


def ray_address():
    """The address of the cluster to work on, or None."""
    return os.environ.get(VARIABLE)
