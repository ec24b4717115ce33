"""Whether training is well: numbers that went astray, and workers that are gone, in words."""

import math
import time

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


def killed_workers_told(function, *arguments):
    """What a function returns that trains; says in one line that a process which loads photos was
    killed.

    Raises:
        RuntimeError: in place of torch's own.
    """
    # No context manager: torch tells by a signal, which may come while an error is on its way, and
    # between leaving a block and entering the manager's code nothing would catch it.
    try:
        return function(*arguments)
    except (RuntimeError, EOFError, OSError) as error:
        if not _of_killed_worker(error):
            raise
        raise RuntimeError(
            "a process that loads photos was killed, most often because memory ran out; the same "
            "command goes on from the last checkpoint, with workers=0 in less memory"
        ) from None


def _of_killed_worker(error):
    """Whether an error comes from a killed worker, which may have been handing over a photo: its
    end of the pipe closes a moment before torch tells.
    """
    if not isinstance(error, RuntimeError):
        try:
            time.sleep(0.5)
        except RuntimeError as told:  # by torch's handler of the signal that a child has ended
            error = told
    return str(error).startswith("DataLoader worker")
