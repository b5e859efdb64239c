"""Settings as plain values by dotted key."""

import pytest

from mtmarl import settings


@pytest.mark.parametrize("flat", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_no_key_is_a_value_and_a_section(flat):
    assert settings.unflatten({"a.b": 1, "a.c.d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    with pytest.raises(ValueError, match="no section|no value"):
        settings.unflatten(flat)


def test_a_key_that_one_lacks_is_a_difference():
    one, other = {"a": 1, "b": [1, 2], "c": None}, {"a": 1.5, "b": (1.0, 2)}
    assert settings.differing([one, one]) == []
    assert settings.differing([one, other]) == ["a", "c"]


def test_values_are_spelled_as_on_a_command_line():
    assert [settings.spell(v) for v in (0.5, True, None, "x", ["lbf/a", "lbf/b"])] == [
        "0.5", "true", "null", "x", "[lbf/a,lbf/b]"
    ]  # fmt: skip
