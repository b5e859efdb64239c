"""Records of runs with wrong values: each is one line, and what earlier versions wrote is read."""

import json
import math
import random

import pytest

from mtmarl import build, config, records
from mtmarl.errors import UserError

GOOD = {
    "run.json": {
        "config": {}, "kind": "train", "seed": 0, "train_tasks": ["a/b"], "minutes": 1.0, "counts_at": {"0": {"a": 1}},
        "layout": {"families": ["lbf"], "features": 3, "actions": 2, "ids": 0, "tasks": None}, "value_range": [0, 1],
        "dims": {"agents": 2, "task_features": [0, 0]}, "counts": {"env_steps": 3}, "references": {"a/b": {}}, "new": 1,
    },
    "best.json": {"score": 0.5, "update": 3, "counts": {"env_steps": 4}},
    "progress.json": {"minutes": 0.0, "evaluations": [{"return": 1.0, "update": 2}], "written": True},
    "final.json": {"best": {}, "last": {}},
}  # fmt: skip
WRONG = (math.nan, math.inf, 1e30, -1, True, "x", None, [], {}, [1], {"a": []}, 10**30)


@pytest.mark.parametrize("name", GOOD)
def test_good_ones_are_read_and_wrong_ones_are_one_line(name, tmp_path):
    file = tmp_path / name
    assert records.read(file) is None
    file.write_text(json.dumps(GOOD[name]))
    assert records.read(file) == GOOD[name]
    draw, refused = random.Random(0), 0
    for _ in range(300):
        value, key = dict(GOOD[name]), draw.choice(list(GOOD[name]))
        value[key] = draw.choice(WRONG)
        file.write_text(json.dumps(draw.choice((value, value, value[key]))))
        try:
            records.read(file)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(file) in str(error)
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("best.json", "score", True), ("best.json", "update", "x"), ("run.json", "counts_at", True),
        ("run.json", "dims", {"agents": 10**9}), ("progress.json", "evaluations", 3),
        ("run.json", "layout", {"families": ["lbf"], "features": 10**9, "actions": 2}),
    ],
)  # fmt: skip
def test_odd_values_are_named(name, key, value, tmp_path):
    (tmp_path / name).write_text(json.dumps({**GOOD[name], key: value}))
    with pytest.raises(UserError, match=rf"{name}: {key}.* not the record of a run; restore"):
        records.read(tmp_path / name)


@pytest.mark.parametrize("sign", ["[", "*", "?", "\\"])
def test_places_that_are_patterns_are_refused_before_anything_is_read(sign, tmp_path):
    cfg = config.compose(["+algo=sable", "+tasks=micro", f"run_dir={tmp_path}/a{sign}0"], "train")
    with pytest.raises(UserError, match="checkpoints cannot be kept below"):
        build.prepare(cfg)


def test_of_two_fresh_commands_the_second_meets_the_record_of_the_first(tmp_path, monkeypatch):
    """… also where the first writes it after the second has looked."""
    compose = lambda *more: config.compose(
        ["+algo=sable", "+tasks=micro", f"run_dir={tmp_path}", *more], "train"
    )
    first, second = compose(), compose("trainer.batch_size=8")
    looked = build.earlier_run

    def slow(run_dir, cfg):
        found = looked(run_dir, cfg)
        monkeypatch.setattr(build, "earlier_run", looked)
        build.write_run(tmp_path, first, "train", ["a/b"], [])
        return found

    monkeypatch.setattr(build, "earlier_run", slow)
    with pytest.raises(UserError, match=r"other settings \(trainer.batch_size\)"):
        build.start_run(tmp_path, second, object.__new__(build.Job))
