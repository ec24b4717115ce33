"""What the command line says of itself, and what it says at the end."""

import argparse
import re
import shlex
from types import SimpleNamespace

import pytest

import wsss
from wsss import cli
from wsss.cli import command

COMPARE = "make ui    # compare runs"


def commands(parser, name="wsss"):
    """``(name, parser)`` of a parser and all its commands."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from commands(command, f"{name} {word}")


def test_without_a_command_the_commands_are_listed(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    for name in ("run", "runs", "label", "data", "doctor"):
        assert re.search(rf"^    {name} ", printed, re.M), name
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"wsss {wsss.__version__}\n"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_examples_can_be_pasted_however_narrow_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    found = 0
    for name, parser in commands(cli.parser()):
        for line in parser.format_help().splitlines():
            if line.startswith("  wsss "):
                given = shlex.split(line)[1:]
                cli.parser().parse_known_args(given)  # leaves the test where it does not fit
                found += line.startswith(f"  {name} ") or name.startswith("wsss export")
    assert found >= 14


def test_defaults_are_called_so():
    for name, parser in commands(cli.parser()):
        for action in parser._actions:
            assert not re.search(r"\((\d|the |this |one |looks)", action.help or ""), (name, action)
            if action.default not in (None, 0, "", False, argparse.SUPPRESS, [], ()):
                assert f"default: {action.default}" in (action.help or ""), (name, action.dest)


def test_help_of_run_lists_stages_and_experiments():
    (run,) = (parser for name, parser in commands(cli.parser()) if name == "wsss run")
    text = " ".join(run.format_help().split())
    assert "stages: dataset, train_cam, infer_cam," in text and "shapes.yaml" in text


def test_a_run_ends_with_where_its_results_are_and_what_to_give_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    planned = []
    for name in ("train_cam", "random_walk", "train_segmentation", "report"):
        folder = tmp_path / "outputs" / name / "0123456789ab"
        (folder / "labels").mkdir(parents=True)
        planned.append(SimpleNamespace(name=name, folder=folder))
    (folder / "report.md").write_text("")
    (planned[2].folder / "weights.pt").write_text("")
    monkeypatch.setattr(command.shutil, "which", lambda name: f"/bin/{name}")
    command.say_next(*cli.run._show_results(planned), COMPARE)
    assert capsys.readouterr().out.splitlines() == [
        "labels:   outputs/random_walk/0123456789ab/labels",
        "network:  outputs/train_segmentation/0123456789ab/weights.pt",
        "report:   outputs/report/0123456789ab/report.md",
        "next: wsss label DIR --run 01234567 --out labelled",
        "      wsss predict DIR --network 01234567 --out predicted",
        f"      {COMPARE}",
    ]
    monkeypatch.setattr(command.shutil, "which", lambda name: None)  # as at the end of `make demo`
    monkeypatch.setattr(command.sys, "prefix", str(tmp_path / ".venv"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    command.say_next(*cli.run._show_results(planned), COMPARE)
    assert "\nnext: source .venv/bin/activate\n      wsss label DIR" in capsys.readouterr().out
    command.say_next(*cli.run._show_results(planned[:1]))  # a stage whose files nobody looks for
    assert capsys.readouterr().out.startswith("train_cam: outputs/train_cam/0123456789ab\nnext: ")
