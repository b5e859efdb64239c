"""Folders of runs that are links or damaged, and runs that diverged: each is in the report or named by it."""

import json

from mtmarl import report
from tests.faults import cases, reports

from .run_directories import write_json, write_run, write_sweep


def made(tmp_path, *places):
    out = tmp_path / "out"
    assert report.main([*map(str, places), "--out", str(out), "--pictures"]) == 0
    return (out / "report.md").read_text(), json.loads((out / "results.json").read_text())


def test_a_run_behind_a_link_counts(tmp_path):
    write_run(tmp_path / "runs/seed_0", {"a/x": 1.0}, {"a/y": 0.5})
    away = write_run(tmp_path / "scratch/seed_1", {"a/x": 1.0}, {"a/y": 0.7}, seed=1)
    (tmp_path / "runs/seed_1").symlink_to(away)
    _, results = made(tmp_path, tmp_path / "runs")
    assert [run["seed"] for run in results["experiments"][0]["runs"]] == [0, 1]


def test_a_sweep_with_a_run_behind_a_link_is_whole(tmp_path):
    root = write_sweep(tmp_path / "s", {"n": ["1"]}, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}), seeds=(0, 1))
    away = (root / "n=1/seed_1").rename(tmp_path / "scratch")
    (root / "n=1/seed_1").symlink_to(away)
    _, results = made(tmp_path, root)
    assert results["sweeps"][0]["cells"][0]["seeds"] == [0, 1] and not results["sweeps"][0]["to_do"]


def test_a_run_that_diverged_is_named_beside_the_others(tmp_path):
    write_run(tmp_path / "runs/a", {"a/x": 1.0}, {"a/y": 0.5})
    lost = write_run(tmp_path / "runs/b", {"a/x": 1.0}, {"a/y": 0.5}, seed=1)
    write_json(lost / "diverged.json", {"line": "diverged at update 7: loss is nan"})
    text, results = made(tmp_path, tmp_path / "runs")
    assert "diverged at update 7" in text
    assert [run["seed"] for run in results["experiments"][0]["runs"]] == [0]


def test_a_run_of_a_sweep_that_diverged_is_named_and_in_no_mean(tmp_path):
    score = lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5 + s})
    root = write_sweep(tmp_path / "s", {"n": ["1", "2"]}, score, seeds=(0, 1))
    for lost in (root / "n=1/seed_1", root / "n=2/seed_0", root / "n=2/seed_1"):
        (lost / "final.json").unlink()
        write_json(lost / "diverged.json", {"line": "diverged at update 7: loss is nan"})
    text, results = made(tmp_path, root)
    assert text.count("diverged at update 7: loss is nan") == 3
    (sweep,) = results["sweeps"]
    assert [cell["seeds"] for cell in sweep["cells"]] == [[0], []] and not sweep["to_do"]


def test_damaged_folders_are_reported_or_named(tmp_path):
    """Four of the faults that `make test-faults` draws: the sound run is always in the report."""
    for number in range(301, 305):
        case = reports.KINDS["reports"].case(tmp_path, number)
        result = cases.run(case)
        assert result.outcome not in cases.FAILURES, (case.recipe, result)
