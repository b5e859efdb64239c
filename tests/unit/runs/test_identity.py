"""Which settings make two runs the same: declared on their fields, computed in one place."""

import dataclasses

from mtmarl import settings
from mtmarl.runs import identity
from mtmarl.runs.identity import made_otherwise

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
    assert identity.deciding(CONFIG) == {
        "seed": 0,
        "algo.network.embed_dim": 64,
        "data.fraction": 1.0,
        "tasks.train": ["a", "b"],
        "tasks.first": 2,
    }
    assert identity.deciding(CONFIG, more=("seed", "tasks", "data")).keys() == {"algo.network.embed_dim"}
    whole = {**CONFIG, "tasks": {**CONFIG["tasks"], "first": 2}}
    assert identity.deciding(CONFIG) == identity.deciding(whole), (
        "a set cut to as many tasks as it has is that set"
    )


def test_of_a_command_line_the_overrides_that_decide():
    argv = [
        "+algo=mt_oryx",
        "seed=0",
        "run_dir=runs/x",
        "+hub.url=file:/x",
        "quiet=true",
        "trainer.updates=5",
    ]
    assert identity.overrides(argv) == {"+algo=mt_oryx", "seed=0", "trainer.updates=5"}


def test_a_field_says_in_which_comparisons_it_may_differ():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        a: int = 0
        b: int = dataclasses.field(default=0, metadata=settings.free(settings.EXPERIMENT))

    @dataclasses.dataclass(frozen=True)
    class Outer:
        one: Inner = dataclasses.field(default_factory=Inner)
        other: Inner = dataclasses.field(default_factory=Inner, metadata=settings.NO_RESULT)

    assert settings.free_keys(Outer, settings.EXPERIMENT) == ["one.b", "other"]
    assert settings.free_keys(Outer, settings.SAME_RUN) == ["other"]


def test_a_collection_may_be_of_a_larger_set_and_a_repetition_of_another_seed():
    of = lambda purpose: set(identity.deciding(CONFIG, purpose))
    rest = {"algo.network.embed_dim", "data.fraction"}
    assert of(settings.COLLECTION) == {"seed", *rest}
    assert of(settings.EXPERIMENT) == of(settings.REPORTED) == {"tasks.train", "tasks.first", *rest}


def test_a_run_of_other_code_or_of_unknown_data_is_told(monkeypatch):
    monkeypatch.setattr("mtmarl.runs.identity.commit", lambda: "b" * 40)
    assert made_otherwise({"commit": "b" * 40, "origins": {}}) is None
    assert made_otherwise({"commit": None, "origins": {}}) is None
    assert (
        made_otherwise({"commit": "a" * 40, "origins": {}})
        == f"made by other code (commit {'a' * 12}, here {'b' * 12})"
    )
    assert made_otherwise({"commit": "b" * 40}) == "does not record its data"
