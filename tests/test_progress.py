"""What the driver shows of stages at work."""

import io
import sys

from wsss.runtime.progress import Screen


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_stages_at_work_share_a_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    printed = []
    screen = Screen(lambda: ("(1/4)", "; about 3 min left"), printed.append)
    screen.show("(2/4) walk", "walk:  45%|###   | 45/100 [00:10<00:12]")
    screen.show("(3/4) walk", "starting")
    shown = [line.strip() for line in terminal.getvalue().split("\r")]
    assert shown[-1] == "(1/4) 2 running: (2/4) walk 45%, (3/4) walk starting; about 3 min left"
    screen.say("done")
    assert printed == ["done"] and terminal.getvalue().endswith(" \r")  # in an empty line
    screen.hide("(2/4) walk")
    screen.show("(3/4) walk", "starting")
    assert "(1/4) 1 running: (3/4) walk starting; about 3 min left" in terminal.getvalue()


def test_one_alone_shows_all_that_it_tells(monkeypatch):
    bar, rest = "walk:  45%|###   |", " 45/100 [00:10<00:12,  1.48s/photo]"
    for columns, shown in (
        (60, f"walk  {bar}{rest}"),
        (55, f"walk  walk:  45%{rest}"),  # without the bar, but with the unit
        (20, "walk  walk:  45% 45"),
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        Screen().show("walk", bar + rest)
        assert terminal.getvalue() == f"\r{shown:<{columns - 1}}"


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
