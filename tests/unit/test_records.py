"""Records of runs with wrong values: each is one line, and what earlier versions wrote is read."""

import json
import math
import random
from dataclasses import asdict, replace

import pytest

from mtmarl import build, config, evaluate, records
from mtmarl.analysis import runs
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


def test_no_reader_of_a_run_falls_over_a_wrong_value(tmp_path, capsys):
    """A report, evaluate and load_policy on one and the same damaged run: one line, or the run is read."""
    cfg = config.compose(["+algo=mt_bc_sable", "+tasks=micro"], "train")
    tasks, outline = list(cfg.tasks.train), build.outline(cfg)
    whole = {
        **GOOD["run.json"], "config": config.to_dict(cfg), "algo": "mt_bc_sable", "tasks": "micro",
        "train_tasks": tasks,
        "test_tasks": [], "updates": 2, "references": {tasks[0]: {"reference": 1.0}}, "max_returns": {}, "start": None,
        "versions": {"jax": "1"}, "started": "2024", "origins": {}, "select_on": "train",
        "layout": asdict(outline.layout), "dims": {k: v for k, v in vars(outline.dims).items() if k != "entities"},
    }  # fmt: skip
    draw, read = random.Random(1), 0
    deep = [
        ("config", "evaluator"),
        ("config", "seed"),
        ("config", "algo"),
        ("layout", "families"),
        ("dims", "agents"),
    ]
    for i in range(100):
        value = json.loads(json.dumps(whole))
        if draw.random() < 0.3:
            section, key = draw.choice(deep)
            value[section] = {**(value[section] or {}), key: draw.choice(WRONG)}
        else:
            value[draw.choice(list(whole))] = draw.choice(WRONG)
        (tmp_path / "run.json").write_text(json.dumps(value))
        for reader in (
            lambda: build.load_policy(tmp_path),
            lambda: build.read_start(replace(cfg, init_from=str(tmp_path))),
        ):
            try:
                reader()
            except UserError as error:
                assert "\n" not in str(error)
        found = runs.load([tmp_path])
        assert len(found.runs) + len(found.refused) == 1 and "\n" not in str(found.refused)
        read += len(found.runs)
        if i % 15 == 0:
            assert evaluate.main([f"run={tmp_path}", f"+tasks={tasks[0]}"]) == 2
            assert capsys.readouterr().err.count("\n") == 1
    assert 10 < read < 90


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
