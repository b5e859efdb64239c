"""Which recorded settings decide what a run computes."""

import pytest

from mtmarl import settings

CONFIG = {
    "seed": 0,
    "sinks": ["jsonl"],
    "quiet": False,
    "evaluator": {"greedy_too": True},
    "algo": {"network": {"embed_dim": 64}},
    "data": {"download": False, "fraction": 1.0},
    "tasks": {"train": ["a", "b"], "first": None, "hub": None},
}


def test_what_is_seen_of_a_run_and_where_its_data_come_from_decide_nothing():
    assert settings.deciding(CONFIG) == {
        "seed": 0,
        "algo.network.embed_dim": 64,
        "data.fraction": 1.0,
        "tasks.train": ["a", "b"],
        "tasks.first": 2,
    }
    assert settings.deciding(CONFIG, ("seed", "tasks", "data")).keys() == {"algo.network.embed_dim"}
    whole = {**CONFIG, "tasks": {**CONFIG["tasks"], "first": 2}}
    assert settings.deciding(CONFIG) == settings.deciding(whole), (
        "a set cut to as many tasks as it has is that set"
    )


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


def test_of_a_command_line_the_overrides_that_decide():
    argv = [
        "+algo=mt_oryx",
        "seed=0",
        "run_dir=runs/x",
        "+hub.url=file:/x",
        "quiet=true",
        "trainer.updates=5",
    ]
    assert settings.overrides(argv) == {"+algo=mt_oryx", "seed=0", "trainer.updates=5"}
