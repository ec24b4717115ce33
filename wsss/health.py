"""Whether training is well: numbers that went astray, and workers that are gone, in words."""

import math
from contextlib import contextmanager

# All losses here are means of negative logarithms of probabilities: guessing costs 1 or so, and 100
# says that the truth is given a probability of exp(-100). Where the first step's loss, of a network
# that knows nothing yet, is larger than 1, a hundred times that. The largest loss of a step
# in the built-in dataset's trainings was 1.1 times the first one.
EXPLODED = 100


def fault(loss, norm, first):
    """What is wrong with a step, in words, or None.

    Args:
        loss: of the step.
        norm: of the whole gradient, before it is clipped.
        first: the loss of the first step; None at that step.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient's norm is {norm}"
    if first is not None and loss > EXPLODED * max(1.0, first):
        return f"the loss is {loss:.4g}, and was {first:.4g} at the first step"
    return None


@contextmanager
def killed_workers_told():
    """Say in one line that a process which loads photos was killed.

    Raises:
        RuntimeError: in place of torch's own.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RuntimeError(
            "a process that loads photos was killed, most often because memory ran out; the same "
            "command goes on from the last checkpoint, with workers=0 in less memory"
        ) from None
