"""Jump points and times to threshold of hand-made curves, and what a report makes of runs that have them."""

import json
import math

import numpy as np
import pytest

from mtmarl import report
from mtmarl.analysis import facts, few_shot
from tests.unit.analysis.run_directories import REFERENCE, write_run, write_sweep

STEPS = np.asarray([0.0, 100.0, 200.0, 300.0])


def test_a_curve_by_hand():
    returns = np.asarray([0.2, 0.7, 0.9, 0.8])
    assert few_shot.jump_point(STEPS, returns) == 0.2
    for threshold, step in ((0.1, 0.0), (0.2, 0.0), (0.5, 100.0), (0.9, 200.0)):
        assert few_shot.time_to_threshold(STEPS, returns, threshold) == step
    assert math.isinf(few_shot.time_to_threshold(STEPS, returns, 0.91))
    assert math.isnan(few_shot.jump_point(STEPS[1:], returns[1:])), "it was not looked at before it learned"
    assert math.isnan(few_shot.jump_point(STEPS[:0], returns[:0]))


def played(directory, score, seed=0, per_update=128, begin=0, tasks=("lbf/a", "lbf/b"), **more):
    """A run that acted from update `begin` on."""
    write_run(
        directory, {tasks[0]: score, tasks[1]: score / 2}, {}, seed=seed, counts={"env_steps": 1}, **more
    )
    file = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [
        {**r, "env_steps": max(0, r["step"] - begin) * per_update} if "oryx/critic_loss" in r else r
        for r in rows
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return facts.read(directory)


def test_curves_are_over_env_steps_and_begin_when_acting_begins(tmp_path):
    run = played(tmp_path / "a", 1.0, begin=200)
    steps, returns = few_shot.curve(run, "lbf/a")
    np.testing.assert_array_equal(steps, 128 * np.arange(0, 801, 100))
    updates, values = run.curve("eval/lbf/a/return")
    assert few_shot.jump_point(steps, returns) == values[updates == 200]
    offline = facts.read(write_run(tmp_path / "b", {"lbf/a": 1.0}, {}, start={"algo": "mt_oryx"}))
    np.testing.assert_array_equal(few_shot.curve(offline, "lbf/a")[0], updates)
    assert few_shot.unit(offline) == "updates" and few_shot.applies(offline)
    assert offline.label == "mt_oryx from mt_oryx · lbf_5"
    assert not few_shot.applies(facts.read(write_run(tmp_path / "c", {"lbf/a": 1.0}, {})))


def test_what_play_teaches_for_other_tasks_is_not_few_shot(tmp_path):
    """HyGen and CARE play their training tasks and are judged by others, unless they begin with a policy."""
    scores, counts = ({"lbf/a": 1.0}, {"lbf/b": 0.5}), {"env_steps": 1}
    assert not few_shot.applies(facts.read(write_run(tmp_path / "a", *scores, counts=counts)))
    assert few_shot.applies(
        facts.read(write_run(tmp_path / "b", *scores, counts=counts, start={"algo": "care"}))
    )


def test_a_seed_that_never_gets_there_takes_infinitely_long(tmp_path):
    group = [played(tmp_path / str(i), score, seed=i) for i, score in enumerate((1.0, 0.5, 0.4))]
    found = few_shot.figures({"x": group})
    assert [(f["task"], f["reached"], f["median_time"]) for f in found] == [
        ("lbf/a", 1, math.inf),
        ("lbf/b", 0, math.inf),
    ]
    assert found[0]["threshold"] == pytest.approx(0.9 * REFERENCE) and found[0]["last_step"] == 128_000
    # 0.9 of what it comes to, 1 - 0.9 exp(-8 x), is reached at x = 0.27.
    assert found[0]["times"][0] == 128 * 300
    easier = few_shot.figures({"x": group}, 0.3)[0]
    assert easier["times"] == [128 * 100, 128 * 200, 128 * 200] and easier["median_time"] == 128 * 200


def test_the_threshold_is_a_share_of_the_largest_return_where_that_is_known(tmp_path):
    group = [played(tmp_path / "a", 1.0, max_returns={"lbf/a": 2.0, "lbf/b": None})]
    a, b = few_shot.figures({"x": group}, 0.5)
    assert a["threshold"] == 1.0 and b["threshold"] == pytest.approx(0.5 * REFERENCE)
    assert report.main([str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 0
    recorded = facts.load([tmp_path / "out/facts.jsonl"]).runs
    again, before = (facts.finite(few_shot.figures({"x": of}, 0.5)) for of in (recorded, group))
    assert again == before


def test_what_was_played_before_is_told_of_runs_that_go_on(tmp_path):
    groups = {
        "on": [
            played(tmp_path / str(i), 1.0, seed=i, start={"algo": "care", "env_steps": n})
            for i, n in ((0, 100), (1, 300))
        ],
        "anew": [played(tmp_path / "2", 1.0)],
    }
    found = few_shot.figures(groups)
    assert [f["played_before"] for f in found] == [200.0, 200.0, 0.0, 0.0]


def test_reports_show_them_where_there_are_any(tmp_path):
    assert report.main([str(write_run(tmp_path / "old", {"lbf/a": 1.0}, {}))]) == 0
    assert "jump point" not in (tmp_path / "old/report/report.md").read_text()
    for i in range(2):
        played(tmp_path / f"new/{i}", 1.0 - 0.3 * i, seed=i, start={"algo": "mt_oryx"})
    assert report.main([str(tmp_path / "new"), "--out", str(tmp_path / "out"), "--threshold", "0.8"]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "jump point" in text and "is 0.8 of the task's reference" in text and "∞" in text
    assert (tmp_path / "out/few-shot.png").stat().st_size > 0
    numbers = json.loads((tmp_path / "out/results.json").read_text())["experiments"][0]["few_shot"]
    assert [f["task"] for f in numbers] == ["lbf/a", "lbf/b"]
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "new"), "--threshold", "0"])


def test_sweeps_set_the_starts_beside_each_other(tmp_path):
    axes = {"task": ["a", "b"], "start": ["mt_oryx", "scratch"]}
    root = write_sweep(tmp_path / "s", axes, lambda cell, seed: None, seeds=(0,), panel="task", line="start")
    for task in axes["task"]:
        for start in axes["start"]:
            directory = root / f"task={task}/start={start}/seed_0"
            played(directory, 1.0 if start == "mt_oryx" else 0.5, tasks=(f"lbf/{task}1", f"lbf/{task}2"))
    assert report.main([str(root)]) == 0
    found = json.loads((root / "report/results.json").read_text())["sweeps"][0]["few_shot"]
    assert [f["label"] for f in found] == ["MT Oryx"] * 4 + ["scratch"] * 4
    assert [f["task"] for f in found[:4]] == ["lbf/a1", "lbf/a2", "lbf/b1", "lbf/b2"]
    assert (root / "report/example-cpu-few-shot.png").stat().st_size > 0
