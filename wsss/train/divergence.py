"""Detect divergence of a training, and name the process that died behind an error."""

import math
import re
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from wsss.errors import reason
from wsss.train.parallel.messages import PeerLost

# Times max(1, first loss), as losses are mean negative log-likelihoods (~1 at chance); on the
# built-in dataset no step's loss exceeded 1.1 times the first.
EXPLODED = 100


def divergence_reason(loss: float, norm: float, *, first_loss: float | None) -> str | None:
    """Why training has diverged, or None; ``norm`` is the L2 norm of the whole gradient before
    clipping, ``first_loss`` the loss of the first step, None at that step.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient's norm is {norm}"
    if first_loss is not None and loss > EXPLODED * max(1.0, first_loss):
        return f"the loss is {loss:.4g}, and was {first_loss:.4g} at the first step"
    return None


def explain_dead_workers(function: Callable, *arguments: Any) -> Any:
    """Call a training function; raise RuntimeError if a process that loads photos was killed,
    ``PeerLost`` if another training process is gone. An error in a loader keeps type and message.
    """
    # Not a context manager: torch raises from a signal handler, possibly while another error
    # propagates, and between a block and the manager's exit nothing would catch it.
    try:
        return function(*arguments)
    except Exception as error:
        if str(error).startswith("Caught "):  # torch's message is the loader process's traceback
            # an InputError has escaped its line ends
            text = re.split(rf"(?:\n|\\n)[\w.]*{type(error).__name__}: ", str(error))[-1]
            raise type(error)(text.removesuffix("\n").removesuffix(r"\n")) from error
        if not isinstance(error, RuntimeError | EOFError | OSError):
            raise
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):  # gloo's have no type
            raise PeerLost(f"another training process is gone ({reason(error)})") from error
        if not _is_dead_loader(error):
            raise
        raise RuntimeError(
            "a process that loads photos was killed, most often because memory ran out; run the "
            "same command again to resume from the last checkpoint, with workers=0 to use less "
            "memory"
        ) from None


def _is_dead_loader(error):
    """Whether an error comes from a killed loader process. If it was just sending a photo, the pipe
    breaks a moment before torch notices.
    """
    if not isinstance(error, RuntimeError):
        try:
            time.sleep(0.5)
        except RuntimeError as signalled:  # by torch's handler of SIGCHLD
            error = signalled
    return str(error).startswith("DataLoader worker")
