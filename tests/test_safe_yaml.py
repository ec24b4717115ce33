"""YAML as people write it; what is refused is in ``bad_inputs.py``."""

import math
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


@pytest.mark.parametrize(
    ("text", "value"),
    {
        **{"1e-3": 0.001, "2.5E+2": 250.0, "1.e3": 1000.0, ".5": 0.5, "-3": -3, "+0": 0},
        **{"010": "010", "1:30": "1:30", "1_000": "1_000", "0x1F": "0x1F", "0b11": "0b11"},
        **{"2026-11-30": "2026-11-30", "12:30:45.5": "12:30:45.5", "00.5": "00.5", "1e": "1e"},
        **{"-.inf": -math.inf, "yes": True, "~": None, "0o17": "0o17", "1.2.3": "1.2.3"},
    }.items(),
)
def test_numbers_are_those_that_people_write_and_what_only_yaml_1_1_has_is_text(text, value):
    found = safe_yaml.parse(text, "here")
    assert found == value and type(found) is type(value)
    assert safe_yaml.parse(f"[{text}]", "here") == [value]


NUMERIC = st.from_regex("[-+]?[0-9.:_exob]{1,6}", fullmatch=True)


@given(st.text() | NUMERIC | st.integers() | st.floats(allow_nan=False))
def test_what_is_written_is_read_back(value):
    """Also a text that looks like a number here, and not in YAML 1.1, as ``1e5`` does."""
    content = {"classes": [value]}
    assert safe_yaml.parse(safe_yaml.dump(content), "here") == content


NAMES = st.from_regex("[a-z][a-z_]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=6,
)


@given(NAMES, NAMES, PLAIN)
def test_overrides_come_back(stage, parameter, value):
    text = yaml.dump(value, Dumper=safe_yaml.Dumper, default_flow_style=True, width=10**6)
    found = plan.parse_overrides([f"{stage}.{parameter}={text}"])
    assert found == {stage: {parameter: value}}


def test_a_text_is_taken_with_its_hash_and_a_run_as_it_is_written():
    """A comment has no place in an override; an id may look like a number."""
    texts = ["a.root=my #1 set", "a.beta=4 # four", "b.walk_run=12345678", "b.cam_run=12e4"]
    given = plan.parse_overrides([*texts, "b.net_run='0123'", "a.name='x' # y"])
    assert given == {
        "a": {"root": "my #1 set", "beta": 4, "name": "x"},
        "b": {"walk_run": "12345678", "cam_run": "12e4", "net_run": "0123"},
    }


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
