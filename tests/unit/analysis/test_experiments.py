"""Which runs are seeds of one experiment, and what a report makes of those that only share a name."""

import json

import pytest

from mtmarl import report
from mtmarl.analysis import experiments, facts, run_plots, run_tables
from tests.unit.analysis.run_directories import write_run

TRAIN, TEST = {"lbf/a": 0.9}, {"lbf/b": 0.5, "lbf/c": 0.4}


def configured(directory, seed=0, embed_dim=64, updates=1000, test=TEST, train=TRAIN, **more):
    config = {
        "seed": seed,
        "run_dir": str(directory),
        "quiet": bool(seed),
        "algo": {"network": {"embed_dim": embed_dim}, **more.pop("algo_settings", {})},
        "data": {"vault_dir": f"/machine/{directory.name}", "fraction": 1.0},
        "tasks": {"name": "lbf_5", "train": list(train), "test": list(test), "first": None},
        "trainer": {"updates": updates, "checkpoint_every": 100 + seed},
        **more.pop("config", {}),
    }
    return write_run(directory, train, test, seed=seed, updates=updates, config=config, **more)


def sort_out(root):
    return experiments.sort_out(facts.load([root]).runs, [root])


def reported(root):
    assert report.main([str(root), "--out", str(root / "out")]) == 0
    return (root / "out/report.md").read_text(), json.loads((root / "out/results.json").read_text())


def test_seeds_may_differ_in_what_does_not_decide(tmp_path):
    for seed in range(3):
        configured(tmp_path / str(seed), seed=seed)
    found = sort_out(tmp_path)
    assert {k: [r.seed for r in v] for k, v in found.groups.items()} == {"mt_oryx · lbf_5": [0, 1, 2]}
    assert found.remarks == () and found.settings == {"mt_oryx · lbf_5": {}}


def test_other_settings_are_another_experiment(tmp_path):
    """A small and a full run of one algorithm, both of seed 0, are not two seeds."""
    configured(tmp_path / "quickstart")
    configured(tmp_path / "full", embed_dim=128, updates=20000)
    text, results = reported(tmp_path)
    labels = [e["label"] for e in results["experiments"]]
    assert sorted(labels) == ["mt_oryx · lbf_5 · embed_dim=128", "mt_oryx · lbf_5 · embed_dim=64"]
    assert all(e["scores"]["best"]["seeds"] == [0] for e in results["experiments"])
    assert all(e["scores"]["best"]["test"]["mean_interval"] == [None, None] for e in results["experiments"])
    assert "2 seeds" not in text and "was run with 2 different configurations" in text
    assert "`mt_oryx · lbf_5 · embed_dim=128`: algo.network.embed_dim=128, trainer.updates=20000" in text
    assert "/machine" not in text and str(tmp_path) not in text


def test_labels_hold_as_few_settings_as_tell_runs_apart(tmp_path):
    for i, (width, updates, more) in enumerate(
        [(64, 10, {}), (64, 20, {}), (128, 10, {}), (128, 20, {"dtype": "bfloat16"})]
    ):
        configured(tmp_path / str(i), embed_dim=width, updates=updates, algo_settings=more)
    assert set(sort_out(tmp_path).groups) == {
        "mt_oryx · lbf_5 · embed_dim=64 · updates=10",
        "mt_oryx · lbf_5 · embed_dim=64 · updates=20",
        "mt_oryx · lbf_5 · embed_dim=128 · updates=10",
        "mt_oryx · lbf_5 · embed_dim=128 · updates=20",
    }


def test_long_values_are_cut_and_labels_stay_different(tmp_path):
    names = [[f"lbf/{'x' * 40}{i}", "lbf/same-end-of-more-than-thirty-two-letters"] for i in range(3)]
    for i, test in enumerate(names):
        configured(tmp_path / str(i), test=dict.fromkeys(test, 0.5))
    labels = list(sort_out(tmp_path).groups)
    assert len(labels) == 3 and labels[1] == f"{labels[0]} (2)" and labels[2] == f"{labels[0]} (3)"
    assert max(map(len, labels)) < 70


def test_other_data_are_another_experiment_wherever_they_lie(tmp_path):
    for seed, (steps, bounds) in enumerate([(100, [0.0, 1.0]), (100, [0.0, 1.00000001]), (200, [0.0, 1.0])]):
        configured(tmp_path / str(seed), seed=seed, dataset_steps=steps, value_range=bounds)
    assert {k: len(v) for k, v in sort_out(tmp_path).groups.items()} == {
        "mt_oryx · lbf_5 · dataset_steps=100": 2,
        "mt_oryx · lbf_5 · dataset_steps=200": 1,
    }


def test_vaults_are_told_apart_by_their_contents(tmp_path):
    seeds = lambda: [[r.seed for r in v] for v in sort_out(tmp_path).groups.values()]
    configured(tmp_path / "older", seed=3, dataset_steps=100)
    for seed, contents in enumerate(("abc", "abc", "def")):
        origins = {"lbf/a": contents, "init_from": f"other for seed {seed}"}
        configured(tmp_path / str(seed), seed=seed, dataset_steps=100, origins=origins)
        if seed == 1:
            assert seeds() == [[0, 1, 3]], "a record that does not tell its vaults is no difference"
    assert seeds() == [[0, 1], [2], [3]]
    assert sum("vaults=" in label for label in sort_out(tmp_path).groups) == 2


def test_seeds_may_begin_with_their_own_seed_of_an_earlier_run(tmp_path):
    start = lambda place: {"start": {"algo": "mt_oryx", "from": place}, "config": {"init_from": place}}
    configured(tmp_path / "0", seed=0, **start("runs/mt_oryx/lbf_5/seed_0"))
    configured(tmp_path / "1", seed=1, **start("/machine/runs/mt_oryx/lbf_5/seed_1"))
    configured(tmp_path / "2", seed=2, **start("runs/mt_oryx/rware_15/seed_2"))
    assert {k: [r.seed for r in v] for k, v in sort_out(tmp_path).groups.items()} == {
        "mt_oryx from mt_oryx · lbf_5 · init_from=mt_oryx/lbf_5": [0, 1],
        "mt_oryx from mt_oryx · lbf_5 · init_from=mt_oryx/rware_15": [2],
    }


def test_how_to_play_matters_where_training_plays(tmp_path):
    seeds = lambda: [[r.seed for r in v] for v in sort_out(tmp_path).groups.values()]
    for seed, explore in enumerate([{}, {"explore": 0.0}, {"explore": 1.0}]):
        offline = {"config": {"collect": explore}, "counts": {"gradient_steps": 10}}
        configured(tmp_path / str(seed), seed=seed, **offline)
    assert seeds() == [[0, 1, 2]]
    for seed, explore in enumerate([0.0, 1.0]):
        playing = {
            "config": {"collect": {"explore": explore}},
            "counts": {"gradient_steps": 10, "env_steps": 90},
        }
        configured(tmp_path / str(seed), seed=seed, **playing)
    assert seeds() == [[0], [1], [2]]


def test_a_seed_counts_once(tmp_path):
    configured(tmp_path / "runs/newer", test={"lbf/b": 0.7}, started="2026-02-01T00:00:00")
    configured(tmp_path / "runs/older", test={"lbf/b": 0.3})
    configured(tmp_path / "runs/other", test={"lbf/b": 0.5}, seed=1)
    text, results = reported(tmp_path / "runs")
    (experiment,) = results["experiments"]
    assert experiment["scores"]["best"]["seeds"] == [0, 1]
    assert experiment["scores"]["best"]["test"]["mean"] == pytest.approx(0.6)
    assert (
        "Seed 0 of mt_oryx · lbf_5 was run 2 times" in text
        and "`runs/older`, `runs/newer`. The newest" in text
    )


def test_other_test_tasks_are_drawn_as_missing(tmp_path):
    """Runs of one label that were scored on different tasks, and one that shares none with them."""
    configured(tmp_path / "both", test=TEST)
    configured(tmp_path / "one", test={"lbf/c": 0.4, "lbf/d": 0.3})
    configured(tmp_path / "other", train={"rware/x": 0.5}, test={}, tasks="rware_1")
    text, results = reported(tmp_path)
    assert len(results["experiments"]) == 3 and (tmp_path / "out/tasks.png").stat().st_size > 0
    figure = run_plots.task_bars(sort_out(tmp_path).groups, "best")
    assert [len(axis.patches) for axis in figure.axes] == [6, 1], (
        "two experiments share tasks, the third none"
    )
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b", "c", "d"]
    assert "lbf/d | test" in text and "**Not all experiments were scored on the same held-out tasks**" in text


def test_tasks_that_some_seeds_lack_are_said(tmp_path):
    """Records from before configurations were kept say nothing of them."""
    group = [
        facts.read(write_run(tmp_path / str(i), TRAIN, test, seed=i, config={}))
        for i, test in enumerate((TEST, {"lbf/c": 0.4}))
    ]
    rows = {row[0]: row for row in run_tables.per_task("x", group, "best").rows}
    assert "(1 of 2 seeds)" in rows["lbf/b"][4] and "seeds" not in rows["lbf/c"][4]
    assert len(run_plots.task_bars({"x": group}, "best").axes[0].patches) == 3
    assert reported(tmp_path)[1]["experiments"][0]["scores"]["best"]["test"]["tasks"] == 1
