"""What the driver shows of stages at work."""

import io
import sys

from wsss.lab.run.driver import summary
from wsss.runtime import progress
from wsss.runtime.progress import Screen, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_stages_at_work_share_a_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    printed = []
    screen = Screen(lambda: ("(1/4)", "; about 3 min left"), printed.append)
    screen.show("(1/4) train", "train  epoch 3/12  loss 0.5  11 steps/s  1:05 left")
    screen.hide("(1/4) train")
    screen.show("(2/4) walk", "walk  45/100 photos  9.1 photos/s  0:06 left")
    screen.show("(3/4) walk", "starting")
    shown = [line.strip() for line in terminal.getvalue().split("\r")]
    assert shown[0] == "" and shown[1].startswith("(1/4) 1 running: (1/4) train epoch 3/12; about")
    assert shown[-1] == "(1/4) 2 running: (2/4) walk 45/100, (3/4) walk starting; about 3 min left"
    screen.say("done")
    assert printed == ["done"] and terminal.getvalue().endswith(" \r")  # in an empty line
    screen.hide("(2/4) walk")
    screen.show("(3/4) walk", "starting")
    assert "(1/4) 1 running: (3/4) walk starting; about 3 min left" in terminal.getvalue()


def test_one_alone_shows_all_that_it_tells(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    Screen().show("walk", "walk  45/100 photos")
    assert terminal.getvalue() == "\rwalk  walk  45/100 "


def test_in_a_file_each_has_a_line_a_minute(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr("wsss.runtime.progress.time.monotonic", lambda: now[0])
    screen = Screen()
    for seconds in (0, 1, 61):
        now[0] = 1000.0 + seconds
        screen.show("(1/2) walk", f"{seconds} s")
        screen.show("(2/2) walk", f"{seconds} s")
    assert capsys.readouterr().err.splitlines() == [
        f"({place}/2) walk  {seconds} s" for seconds in (0, 61) for place in (1, 2)
    ]


def test_a_line_tells_count_speed_and_time_left(monkeypatch, tmp_path):
    now, lines = [100.0], []
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress, "forward", lines.append)
    bar = progress.progress(range(10), "walk")
    for _ in bar:
        now[0] += 2.0
    assert "walk  5/10 photos  0.5 photos/s  00:10 left" in lines
    assert lines[-1] == "figures and record"


def test_a_training_tells_its_epoch_and_loss_in_place_of_the_count(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress, "forward", lines.append)
    bar = progress.progress(range(600), "train", initial=100, total=600, unit="step")
    for step, _ in zip(range(100), bar, strict=False):
        bar.about = f"epoch {2 + step // 100}/6  loss 0.56"
        now[0] += 1.0
    assert "train  epoch 2/6  loss 0.56  1 steps/s  06:50 left" in lines
    bar.close()


def test_times_are_read_at_a_glance():
    assert [clock(seconds) for seconds in (0.4, 65, 3599.6, 3725)] == [
        *("00:00", "01:05", "59:59", "1:02:05")
    ]


def test_a_stage_ends_with_the_scores_that_people_know():
    scores = {"walk_miou": ("walk", "2 walk mIoU"), "labels_miou": ("walk", "3 labels mIoU")}
    metrics = {"walk_miou/train": 62.31, "labels_miou/train": 74.48, "seconds": 3.0}
    assert summary(metrics, scores) == "walk mIoU 62.3 (train)  labels mIoU 74.5 (train)  "
    assert summary({"loss": 0.3119, "images_per_second": 175}, scores) == "loss 0.312  "
    assert summary({"photos": 3}, scores) == ""
