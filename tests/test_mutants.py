"""The list of changes that tests cannot notice, and what is changed at all."""

from pathlib import Path

import pytest

from tests import mutants
from tests.house import METHOD

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("entry", mutants.EQUIVALENT, ids=lambda entry: entry["from"])
def test_an_explained_change_is_of_code_that_stands(entry):
    homes = [source for source in mutants.SOURCES.values() if entry["from"] in source]
    assert homes, "no file holds this: take the entry out"
    assert entry["why"].endswith(".") and entry["to"]
    for text in entry["to"]:
        changed = homes[0].replace(entry["from"], text)
        assert changed != homes[0] and not mutants.worth_trying(homes[0], changed)


def test_changes_are_tried_if_they_are_code_and_not_explained():
    source = "x = zip(a, b, strict=True)\n"
    assert mutants.worth_trying(source, source.replace("a", "b"))
    assert not mutants.worth_trying(source, source.replace("True", "False"))
    assert not mutants.worth_trying(source, source.replace("=", "", 1))


def test_the_whole_method_is_changed():
    assert {f"wsss/{name}.py" for name in METHOD} < mutants.TESTS.keys()
    assert all((ROOT / tests).is_file() for tests in mutants.TESTS.values())
