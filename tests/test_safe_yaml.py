"""YAML as people write it; what is refused is in ``bad_inputs.py``."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wsss.errors import InputError
from wsss.io import safe_yaml
from wsss.lab import plan


def test_anchors_and_merges_are_read_as_yaml_has_them():
    text = "a: &one {x: 1, y: [1, 2]}\nb: *one\nc: {<<: *one, x: 3}\nd: [*one, *one]\n"
    assert safe_yaml.parse(text, "here") == yaml.safe_load(text)
    assert safe_yaml.parse("", "here") is None and safe_yaml.parse("# nothing", "here") is None


def test_a_byte_order_mark_and_line_ends_of_other_systems_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffname: é\r\nstages: {dataset: }\r\n".encode())
    assert safe_yaml.read(path, "an experiment") == {"name": "é", "stages": {"dataset": None}}


def test_what_anchors_stand_for_is_counted_each_time():
    """A list of lists: 10 + 10 * 11 values, and one less than the bound passes."""
    text = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\nb: [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    values = 1 + 2 + 11 + (1 + 10 * 11)  # the mapping, its keys, the list, the list of lists
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safe_yaml, "MOST_VALUES", values)
        assert len(safe_yaml.parse(text, "here")["b"]) == 10
        patch.setattr(safe_yaml, "MOST_VALUES", values - 1)
        with pytest.raises(InputError, match="expands to more than"):
            safe_yaml.parse(text, "here")


NAMES = st.from_regex("[a-z][a-z_]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=6,
)


@given(NAMES, NAMES, PLAIN)
def test_overrides_come_back(stage, parameter, value):
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    found = plan.parse_overrides([f"{stage}.{parameter}={text}"])
    assert found == {stage: {parameter: value}}


def test_nothing_after_the_equals_sign_is_the_empty_text():
    given = plan.parse_overrides(["evaluate.model_name=", "report.a=null"])
    assert given == {"evaluate": {"model_name": ""}, "report": {"a": None}}


def test_a_key_listed_twice_is_found_in_time_that_grows_with_the_keys():
    """Comparing each key with all others would take half a minute."""
    lines = [f"k{number}: 1\n" for number in range(8_000)]
    began = time.process_time()
    with pytest.raises(InputError, match="'k7999' is listed twice"):
        safe_yaml.parse("".join([*lines, lines[-1]]), "here")
    assert time.process_time() - began < 8


@pytest.mark.parametrize("escape", ["\\0", "\\ud800", "\\udfff"])
@pytest.mark.parametrize("form", ['name: "a{}b"', 'a: [{{"x{}": 1}}]', '"{}"'])
def test_escapes_that_no_file_can_hold_are_refused(form, escape):
    with pytest.raises(InputError, match=r"here: expected text but it contains '\\(x00|ud[8f])"):
        safe_yaml.parse(form.format(escape), "here")
    paired = safe_yaml.parse(form.format("\\U0001F408"), "here")
    assert "\U0001f408" in repr(paired)
