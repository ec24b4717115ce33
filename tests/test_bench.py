"""The benchmark's bookkeeping on toy pairs, and its plain definitions against the package. Nothing
here asserts a time.
"""

import json

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import harness, reference
from benchmarks.harness import Aim, Pair
from wsss import cli
from wsss.affinity import affinity_loss, pair_distance, pair_targets
from wsss.lab.record import mlflow_store
from wsss.metrics import ConfusionMatrix
from wsss.random_walk import random_walk


@pytest.mark.parametrize(
    ("aim", "figure", "wanted", "worse"),
    [
        (Aim("ratio", 5), 4.0, "≥ 5x", 4.9),
        (Aim("price", 1.3), 0.25, "≤ 1.30x the price", 1.31),
        (Aim("seconds", 1), 2.0, "≤ 1 s", 1.1),
        (Aim("rate", 400, items=100), 50.0, "≥ 400 a second", 399),
        (Aim("none"), 4.0, "", None),
    ],
)
def test_aims_make_their_figures_of_8_seconds_and_2(aim, figure, wanted, worse):
    assert aim.figure(8.0, 2.0) == figure
    assert aim.wanted == wanted
    assert aim.reached(aim.bound)
    assert worse is None or not aim.reached(worse)


def toy(difference, calls):
    return Pair(
        plain=lambda: calls.append("plain") or 1.0,
        fast=lambda: calls.append("fast") or 1.0 + difference,
        aim=Aim("none"),
        difference=lambda one, other: abs(one - other),
        allowed=0.1,
    )


def test_ways_take_turns_and_neither_always_comes_first():
    calls = []
    row = harness.measure("toy", toy(0.0, calls), repeats=4)
    assert calls[:2] == ["plain", "fast"]  # once each for the result
    turns = [tuple(calls[place : place + 2]) for place in range(2, 10, 2)]
    assert turns == [("plain", "fast"), ("fast", "plain")] * 2
    assert len(row["plain"]) == len(row["fast"]) == 4
    assert row["reached"]


def test_a_difference_beyond_what_is_allowed_is_a_fault():
    row = harness.measure("toy", toy(0.5, []), repeats=1)
    assert row["difference"] == 0.5 and not row["reached"]
    assert "not reached" in harness.table([row])


def test_numbers_that_ways_measure_themselves():
    pair = Pair(
        lambda: (40, "a"),
        lambda: (2, "b"),
        Aim("ratio", 20),
        lambda one, other: float((one, other) != ("a", "b")),
        unit="bytes",
        timed=False,
    )
    row = harness.measure("toy", pair, repeats=5)
    assert (row["plain"], row["fast"], row["text"], row["reached"]) == ([40], [2], "20x", True)


def test_peak_memory_is_that_of_the_way():
    pair = Pair(lambda: np.ones(64 << 20, np.uint8)[0], lambda: 0, Aim("none"), None)
    peak = harness.measure("toy", pair, repeats=1)["peak_mib"]
    if peak["plain"] is None:
        pytest.skip("this system does not report a process's peak memory")
    assert 60 < peak["plain"] < 80 and peak["fast"] < 10


def test_the_command_writes_table_plot_and_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def unavailable():
        raise harness.Unavailable("no photos")

    monkeypatch.setattr(command, "PAIRS", {"toy": lambda: toy(0.0, []), "photos": unavailable})
    assert command.main(["--repeats", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| toy |" in out and "left out: no photos" in out
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["name"] == "toy"
    assert (tmp_path / "bench.png").stat().st_size > 1000
    client = mlflow_store.client()
    (run,) = client.search_runs([mlflow_store.experiment_id("bench")])
    assert run.info.status == "FINISHED" and run.data.metrics["toy/difference"] == 0
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"bench.json", "bench.md", "bench.png"}


def test_an_unknown_pair_is_refused_with_the_names_of_all(capsys):
    assert command.main(["--only", "no such pair"]) == 2
    assert "random walk, 64 x 64" in capsys.readouterr().err


def test_wsss_bench_runs_the_repository_s_benchmarks(monkeypatch, capfd, tmp_path):
    assert cli.main(["bench", "--only", "no such pair"]) == 2
    assert "expected part of: random walk" in capfd.readouterr().err
    monkeypatch.setattr(cli.run, "REPOSITORY", tmp_path)
    assert cli.main(["bench"]) == 2
    assert capfd.readouterr().err.endswith("run `make bench` in the repository of wsss\n")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_plain_walks_are_the_package_s():
    scores, affinity = random(3, 7, 9), random(34, 7, 9, seed=1)
    expected = random_walk(scores, affinity)
    for walk in (reference.random_walk, reference.step_by_step):
        torch.testing.assert_close(walk(scores, affinity).float(), expected, rtol=1e-4, atol=1e-5)


def test_the_plain_distances_and_loss_are_the_package_s():
    features = random(2, 4, 7, 9)
    labels = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[(4 * random(2, 7, 9, seed=1)).long()]
    offsets, ones, others = reference.pairs(7, 9, 5)
    distance = pair_distance(features)
    plain = reference.pair_distance(features, ones, others)
    torch.testing.assert_close(plain, distance[:, offsets, ones // 9, ones % 9])
    assert distance.isfinite().sum() == plain.numel()
    ends = ones.numpy(), others.numpy()
    masks = zip(*(reference.pair_masks(each, *ends) for each in labels.numpy()), strict=True)
    loss = reference.affinity_loss(plain, *(torch.from_numpy(np.stack(mask)) for mask in masks))
    torch.testing.assert_close(loss, affinity_loss(distance, pair_targets(labels)).total)


def test_the_plain_counts_are_the_package_s():
    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 4, (9, 8)).astype(np.uint8)
    target = rng.choice(np.uint8([0, 1, 2, 3, 255]), (9, 8))
    counts = ConfusionMatrix(4)
    counts.update(prediction, target)
    np.testing.assert_array_equal(reference.confusion(prediction, target, 4), counts.matrix)
