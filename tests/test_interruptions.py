"""Training that is cut off, killed while it saves, or finds its checkpoints damaged ends where
undisturbed training does, bit for bit.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.toys import Noise
from wsss.datasets.transforms import cut_mix
from wsss.train import checkpoints
from wsss.train.loop import Schedule, fit, fit_soup


def bright(picture):
    return (picture.mean(0) > 0).long()


def patches(seed=0):
    return Noise(8, bright, seed)


class Network(nn.Module):
    """All that a step may depend on beside the weights: dropout, and a batch norm that learns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.3)
        )
        self.head = nn.Conv2d(6, 2, 1)

    def head_parameters(self):
        return list(self.head.parameters())

    def forward(self, x):
        return self.head(self.trunk(x))


def pixel_loss(network, images, targets):
    return {"loss": F.cross_entropy(network(images), targets)}


SCHEDULE = Schedule(
    epochs=4,
    batch_size=4,
    accumulation_steps=2,
    optimiser="adam",
    learning_rate=0.05,
    weight_decay=1e-3,
    workers=0,
    checkpoint_minutes=0,
)
STEPS = 12  # of a training by that schedule


class Cut(Exception):
    pass


class Counted:
    """The loss, which counts the steps, and cuts training off after some."""

    def __init__(self, last=None, parts=2):
        self.calls, self.last, self.parts = 0, last, parts

    @property
    def steps(self):
        return self.calls // self.parts

    def __call__(self, network, images, targets):
        if self.last is not None and self.steps == self.last:
            raise Cut
        self.calls += 1
        return pixel_loss(network, images, targets)


def trained(folder, schedule, *, members=0, cut=None):
    """The final weights and losses of a training that goes on in a folder, and its steps here."""
    network, loss = Network(), Counted(cut, schedule.accumulation_steps)
    torch.manual_seed(77)  # whatever happened before
    given = {"loss": loss, "schedule": schedule, "folder": folder}
    given["mix"] = partial(cut_mix, share=0.5)
    if members:
        history = fit_soup(network, patches(), soup_size=members, **given)
    else:
        history = fit(network, patches(), **given)
    return network.state_dict(), [metrics["loss"] for metrics in history], loss.steps


def assert_same(found, expected):
    assert found[1] == expected[1]
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name


@pytest.mark.parametrize(
    "optimiser, members, workers",
    [
        *(("adam", 0, 0), ("sgd", 0, 0), ("adam", 2, 0), ("sgd", 2, 0)),
        pytest.param("adam", 2, 2, marks=pytest.mark.slow),  # a worker takes seconds to start
    ],
)
def test_training_cut_off_anywhere_ends_as_undisturbed(tmp_path, optimiser, members, workers):
    undisturbed = replace(SCHEDULE, optimiser=optimiser)
    expected = trained(tmp_path / "a", undisturbed, members=members)
    schedule = replace(undisturbed, workers=workers)
    random = np.random.default_rng([workers, members, len(optimiser)])
    left = max(1, members) * STEPS
    for _ in range(3 if workers == 0 else 1):  # cut off, and again, and again
        cut = int(random.integers(1, left))
        with pytest.raises(Cut):
            trained(tmp_path / "b", schedule, members=members, cut=cut)
        left -= cut
        if left < 2:
            break
    found = trained(tmp_path / "b", schedule, members=members)
    assert_same(found, expected)
    assert found[2] == left  # none that was saved is taken again


def damaged(content):
    """A file's content, damaged in several ways."""
    half = len(content) // 2
    yield b""
    yield bytes(len(content))
    yield content[:half]
    yield content[:-1]
    yield content[: half - 500] + bytes(1000) + content[half + 500 :]


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("names", [["checkpoint"], ["checkpoint.previous"], ["both"], ["missing"]])
def test_damaged_checkpoints_cost_steps_and_change_nothing(tmp_path, way, names):
    expected = trained(tmp_path / "a", SCHEDULE)
    with pytest.raises(Cut):
        trained(tmp_path / "b", SCHEDULE, cut=5)
    (name,) = names
    here = {"both": ["checkpoint", "checkpoint.previous"], "missing": ["checkpoint"]}
    for each in here.get(name, names):
        path = tmp_path / "b" / f"{each}.pt"
        path.write_bytes(list(damaged(path.read_bytes()))[way])
        if name == "missing":  # killed between two renames
            path.unlink()
    with pytest.raises(Cut):  # at once: what was damaged must not replace what is whole
        trained(tmp_path / "b", SCHEDULE, cut=0)
    found = trained(tmp_path / "b", SCHEDULE)
    assert_same(found, expected)
    again = {"checkpoint": 1, "missing": 1, "checkpoint.previous": 0, "both": 5}
    assert found[2] == STEPS - 5 + again[name]


def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one(tmp_path):
    expected = trained(tmp_path / "a", SCHEDULE)
    with pytest.raises(Cut):
        trained(tmp_path / "b", SCHEDULE, cut=5)
    path = tmp_path / "b" / "checkpoint.pt"
    for _ in range(2):
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(Cut):
            trained(tmp_path / "b", SCHEDULE, cut=1)
    found = trained(tmp_path / "b", SCHEDULE)
    assert_same(found, expected)
    assert found[2] == STEPS - 5


@pytest.mark.parametrize("way", range(5))
def test_a_damaged_member_goes_on_from_its_checkpoint(tmp_path, way):
    expected = trained(tmp_path / "a", SCHEDULE, members=2)
    path = tmp_path / "a" / "member_0.pt"
    before = path.read_bytes()
    path.write_bytes(list(damaged(before))[way])
    found = trained(tmp_path / "a", SCHEDULE, members=2)
    assert_same(found, expected)
    assert found[2] == 1  # its last step; the other member is there
    path.unlink()
    for kept in (tmp_path / "a" / "member_0").iterdir():
        kept.write_bytes(b"")
    found = trained(tmp_path / "a", SCHEDULE, members=2)
    assert_same(found, expected)
    assert found[2] == STEPS


KILLED = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
import torch
from tests.test_interruptions import SCHEDULE, Network, patches, pixel_loss
from wsss.io import atomic
from wsss.train import checkpoints, loop

torch.set_num_threads(1)
SAVING = (atomic.__file__, checkpoints.__file__, torch.serialization.__file__)
folder = Path({folder!r})


def kill_at(count):
    def line(frame, event, argument):
        nonlocal count
        count -= event == "line"
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        return line

    sys.settrace(lambda frame, *_: line if frame.f_code.co_filename in SAVING else None)


def steps_saved():
    saved = checkpoints.newest(folder / "checkpoint.pt", "cpu")
    return saved["state"]["step"] if saved else 0


random, kills = np.random.default_rng(0), []
for _ in range(10):
    before, lines = steps_saved(), int(random.integers(1, 9000))  # a save runs some 3,000
    if not os.fork():
        kill_at(lines)
        def loss(*given):
            with (folder / "calls").open("a") as file:
                file.write(".")
            return pixel_loss(*given)
        (folder / "calls").write_text("")
        loop.fit(Network(), patches(), loss=loss, schedule=SCHEDULE, folder=folder)
        os._exit(0)
    _, status = os.wait()
    begun = before + (folder / "calls").stat().st_size // 2
    kills.append([os.WIFSIGNALED(status), begun, steps_saved()])
print(json.dumps(kills))
"""


def test_killed_while_it_saves_training_loses_one_step_at_most(tmp_path):
    """kill -9 between any two lines that save: a checkpoint after every step, and seeded kills."""
    folder = tmp_path / "b"
    folder.mkdir()
    script = KILLED.format(root=str(Path(__file__).parents[1]), folder=str(folder))
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    kills = json.loads(answer.stdout.splitlines()[-1])
    assert sum(killed for killed, _, _ in kills) >= 5 and kills[-1][2] > 3
    for killed, begun, saved in kills:
        assert not killed or saved >= begun - 1
    network, expected = Network(), Network()
    fit(network, patches(), loss=pixel_loss, schedule=SCHEDULE, folder=folder)
    fit(expected, patches(), loss=pixel_loss, schedule=SCHEDULE, folder=tmp_path / "a")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_checkpoints_that_are_not_finite_are_not_written(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, {"network": {"a": torch.ones(3)}, "step": 1})
    checkpoints.save(path, {"network": {"a": torch.ones(3), "n": torch.tensor(4)}, "step": 2})
    with pytest.raises(FloatingPointError, match="the weights 'a' are not finite"):
        checkpoints.save(path, {"network": {"a": torch.tensor([1, np.inf])}, "step": 3})
    assert checkpoints.newest(path, "cpu")["step"] == 2
    path.unlink()
    assert checkpoints.newest(path, "cpu")["step"] == 1
