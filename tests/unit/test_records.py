"""Records of runs with wrong values: each is one line, and what earlier versions wrote is read."""

import json
import math
import random
from dataclasses import asdict, replace

import pytest

from mtmarl import build, config, evaluate, records
from mtmarl.analysis import facts
from mtmarl.errors import UserError
from mtmarl.runs import record, resume
from mtmarl.runs.policy import load_policy, read_saved

SCORED = {"step": 3, "tasks": {"a/b": {"return": [0.5, 1], "win_rate": 0.5, "greedy_return": None}}}
GOOD = {
    "run.json": {
        "config": {}, "kind": "train", "seed": 0, "train_tasks": ["a/b"], "minutes": 1.0, "counts_at": {"0": {"a": 1}},
        "layout": {"families": ["lbf"], "features": 3, "actions": 2, "ids": 0, "tasks": None}, "value_range": [0, 1],
        "dims": {"agents": 2, "task_features": [0, 0]}, "counts": {"env_steps": 3}, "references": {"a/b": {}}, "new": 1,
    },
    "best.json": {"score": 0.5, "update": 3, "counts": {"env_steps": 4}},
    "progress.json": {"minutes": 0.0, "evaluations": [{"return": 1.0, "update": 2}], "written": True},
    "final.json": {"best": SCORED, "last": SCORED},
}  # fmt: skip
KINDS = {
    "run.json": record.RunRecord, "best.json": record.BestRecord, "progress.json": record.ProgressRecord,
    "final.json": record.FinalRecord,
}  # fmt: skip
WRONG = (math.nan, math.inf, 1e30, -1, True, "x", None, [], {}, [1], {"a": []}, 10**30)


def read(file):
    return records.read(file, KINDS[file.name], ("config",) if file.name == "run.json" else ())


@pytest.mark.parametrize("name", GOOD)
def test_good_ones_are_read_and_wrong_ones_are_one_line(name, tmp_path):
    file = tmp_path / name
    assert read(file) is None
    file.write_text(json.dumps(GOOD[name]))
    assert json.loads(json.dumps(read(file))) == GOOD[name]
    draw, refused = random.Random(0), 0
    for _ in range(300):
        value, key = dict(GOOD[name]), draw.choice(list(GOOD[name]))
        value[key] = draw.choice(WRONG)
        file.write_text(json.dumps(draw.choice((value, value, value[key]))))
        try:
            read(file)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(file) in str(error)
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "key", "value", "field"),
    [
        ("best.json", "score", True, "score must be float"),
        ("best.json", "score", math.nan, "score must be a finite number"),
        ("best.json", "update", "x", "update must be int"),
        ("run.json", "counts_at", True, "counts_at must be"),
        ("run.json", "dims", {"agents": 10**9}, "dims.agents must lie in 0 … 65535"),
        ("run.json", "train_tasks", ["a/b", "a/b"], "train_tasks must hold different entries"),
        ("run.json", "train_tasks", [], "train_tasks must hold different entries, at least 1"),
        ("run.json", "layout", {"families": ["lbf"], "actions": 2}, "missing key layout.features"),
        ("run.json", "layout", {**GOOD["run.json"]["layout"], "actions": 10**9}, "layout.actions must lie in"),
        ("run.json", "config", {"evaluator": {"explore": 2}}, "config.evaluator.explore must lie in 0 … 1"),
        ("progress.json", "evaluations", 3, "evaluations must be a list"),
        ("progress.json", "evaluations", [{"update": 1}], r"missing key evaluations\[0\].return"),
        ("progress.json", "evaluations", [{"update": 1, "return": 1, "win_rate": 1.5}], r"\[0\].win_rate must lie"),
        ("final.json", "best", {"tasks": {"a/b": {"return": [1, math.inf]}}}, r"a/b.return\[1\] must be a finite"),
        ("final.json", "last", {"tasks": {"a/b": {"return": 1, "win_rate": -0.1}}}, r"last.tasks.a/b.win_rate must"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_file_and_field(name, key, value, field, tmp_path):
    (tmp_path / name).write_text(json.dumps({**GOOD[name], key: value}))
    with pytest.raises(UserError, match=rf"{name}: .*{field}.*; restore or remove it"):
        read(tmp_path / name)


def test_values_are_converted(tmp_path):
    """An int where a float is meant, and the other way round, as other writers of JSON leave them."""
    (tmp_path / "run.json").write_text(json.dumps({**GOOD["run.json"], "minutes": 2, "seed": 1.0}))
    found = read(tmp_path / "run.json")
    assert (type(found["minutes"]), type(found["seed"])) == (float, int)


@pytest.mark.parametrize("wrong", ['"high"', "NaN", "1e400", "[1]", "true", "1e39"])
def test_a_metric_that_is_no_number_is_named(tmp_path, wrong):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1, "loss": null}}\n{{"step": 2, "loss": {wrong}}}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl: loss must be"):
        records.read_lines(file)
    file.write_text('{"step": 1, "loss": null}\n{"step": 2, "lo')
    assert records.read_lines(file) == [{"step": 1, "loss": None}]


def test_no_reader_of_a_run_falls_over_a_wrong_value(tmp_path, capsys):
    """A report, evaluate and load_policy on one and the same damaged run: one line, or the run is read."""
    cfg = config.compose(["+algo=mt_bc_sable", "+tasks=micro"], "train")
    tasks, outline = list(cfg.tasks.train), build.run_spec(cfg)
    whole = {
        **GOOD["run.json"], "config": config.to_dict(cfg), "algo": "mt_bc_sable", "tasks": "micro",
        "train_tasks": tasks,
        "test_tasks": [], "updates": 2, "references": {tasks[0]: {"reference": 1.0}}, "max_returns": {}, "start": None,
        "versions": {"jax": "1"}, "started": "2024", "origins": {}, "select_on": "train",
        "layout": asdict(outline.layout), "dims": {k: v for k, v in vars(outline.dims).items() if k != "entities"},
    }  # fmt: skip
    draw, whole_ones = random.Random(1), 0
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
            lambda: load_policy(tmp_path),
            lambda: read_saved(replace(cfg, init_from=str(tmp_path))),
        ):
            try:
                reader()
            except UserError as error:
                assert "\n" not in str(error)
        found = facts.load([tmp_path])
        assert len(found.runs) + len(found.refused) == 1 and "\n" not in str(found.refused)
        whole_ones += len(found.runs)
        if i % 15 == 0:
            assert evaluate.main([f"run={tmp_path}", f"+tasks={tasks[0]}"]) == 2
            assert capsys.readouterr().err.count("\n") == 1
    assert 10 < whole_ones < 90


@pytest.mark.parametrize("sign", ["[", "*", "?", "\\", "gs:/"])
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
    looked = resume.earlier_run

    def slow(run_dir, cfg, purpose):
        found = looked(run_dir, cfg, purpose)
        monkeypatch.setattr(resume, "earlier_run", looked)
        resume.write_run(tmp_path, first, "train", ["a/b"], [])
        return found

    monkeypatch.setattr(resume, "earlier_run", slow)
    with pytest.raises(UserError, match=r"other settings \(trainer.batch_size\)"):
        resume.start_run(tmp_path, second, lambda: pytest.fail("it is written over"))
