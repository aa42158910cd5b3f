from __future__ import annotations

import pytest

from rayvos.annotations.formats.json_fields import json_keys, load_json, number_list, take, take_optional
from rayvos.errors import FormatError, MissingPathError


@pytest.mark.parametrize("text", ["", " \n", "{", "[]", "null", "3", '{"a": 1} x', "[" * 100_000])
def test_files_without_one_json_object_are_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FormatError, match=r"a\.json"):
        load_json(str(tmp_path / "a.json"))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\xfa{}")
    with pytest.raises(FormatError, match=r"a\.json"):
        load_json(str(tmp_path / "a.json"))


def test_a_file_that_is_not_there_is_named_but_has_no_keys(tmp_path):
    with pytest.raises(MissingPathError, match=r"none\.json"):
        load_json(str(tmp_path / "none.json"))
    assert json_keys(str(tmp_path / "none.json")) == set()


def test_keys_are_found_at_any_depth_of_the_first_megabyte(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"videos": [{"file_names" : ["x: y"]}], "pad": "' + "p" * (1 << 20) + '", "late": 1}')
    assert json_keys(str(path)) == {"videos", "file_names", "pad"}
    (tmp_path / "a.txt").write_text('{"videos": 1}')
    assert json_keys(str(tmp_path / "a.txt")) == set()


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [(3, int, 3), (3, float, 3.0), (2.5, float, 2.5), ("x", str, "x"), ([], list, []), (True, bool, True)],
)
def test_fields_of_their_type_are_returned(value, kind, found):
    assert take({"a": value}, "a", kind, "f.json") == found


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, list), (True, int), (True, float), ("3", int), (3.0, int), (float("nan"), float), ({}, list), (3, str)],
)
def test_fields_of_another_type_are_named_with_what_was_expected(value, kind):
    with pytest.raises(FormatError, match=r"f\.json: a: expected .*, found"):
        take({"a": value}, "a", kind, "f.json")


@pytest.mark.parametrize("record", [None, [], "text", {"b": 1}])
def test_a_missing_field_is_named(record):
    with pytest.raises(FormatError, match=r"f\.json"):
        take(record, "a", int, "f.json")


def test_an_optional_field_may_be_missing_or_null_but_not_wrong():
    assert take_optional({}, "a", int, "f.json") is None
    assert take_optional({"a": None}, "a", int, "f.json") is None
    assert take_optional({"a": 3}, "a", (int, bool), "f.json") == 3
    with pytest.raises(FormatError, match="a whole number or a flag"):
        take_optional({"a": "x"}, "a", (int, bool), "f.json")


@pytest.mark.parametrize("values", [None, [1, 2, 3], [1, 2, 3, None], [1, 2, 3, float("nan")], [1, 2, 3, float("inf")]])
def test_lists_of_numbers_have_their_length_and_are_finite(values):
    assert number_list([1, 2.5, 3, 4], 4, "bbox") == [1, 2.5, 3, 4]
    with pytest.raises(FormatError, match="bbox"):
        number_list(values, 4, "bbox")
