"""Plans of runs: what belongs together, what is missing, and what a published claim is worth."""

import json
import math

import pytest

from mtmarl import report
from mtmarl.analysis import facts, formats, measure, plans, sweeps, tables, verdicts
from mtmarl.files import write_json
from tests.unit.analysis.run_directories import write_run, write_sweep

AXES = {"algo": ["mt_oryx", "mt_bc_sable"], "n": ["1", "4", "16"]}


def load(*paths):
    return plans.load(facts.load(list(paths)))


def only(*paths):
    (sweep,) = load(*paths).sweeps
    return sweep


def flat(cell, seed):
    """Scores that name their cell: 0.1 n, a little more for one algorithm, seeds 0.001 apart."""
    score = 0.02 * int(cell["n"]) + (0.1 if cell["algo"] == "mt_oryx" else 0.0) + 0.001 * seed
    return {"a/train": 0.9}, {"a/one": score, "a/two": score + 0.2}


@pytest.mark.parametrize(
    ("gain", "interval", "published", "expected"),
    [
        (0.40, (0.30, 0.50), 0.29, "holds"),  # above the published gain
        (0.25, (0.10, 0.35), 0.29, "holds"),  # which lies inside the interval
        (0.20, (0.10, 0.28), 0.29, "holds"),
        (0.02, (-0.10, 0.15), 0.29, "refuted"),
        (-0.20, (-0.30, -0.10), 0.29, "refuted"),
        (0.10, (-0.20, 0.40), 0.29, "not decided at this n"),
        (-0.40, (-0.50, -0.30), -0.37, "holds"),
        (-0.50, (-0.60, -0.40), -0.37, "holds"),
        (-0.20, (-0.30, -0.10), -0.37, "holds"),
        (0.20, (0.10, 0.30), -0.37, "refuted"),
        (0.05, (0.01, 0.09), None, "holds"),
        (0.01, (-0.05, 0.09), None, "not decided at this n"),
        (-0.05, (-0.09, -0.01), None, "refuted"),
        (0.01, (-0.05, 0.09), 0.0, "holds"),  # no difference was claimed
        (-0.18, (-0.69, 1.13), 0.0, "not decided at this n"),  # three seeds that say nothing
        (0.05, (0.01, 0.09), 0.0, "refuted"),
        (4.0, (0.7, math.inf), 4.42, "holds"),
    ],
)
def test_verdict(gain, interval, published, expected):
    assert verdicts.verdict(gain, interval, published)[0] == expected


def test_a_verdict_says_how_the_size_differs():
    assert verdicts.verdict(0.20, (0.10, 0.28), 0.29) == ("holds", "smaller than published")
    assert verdicts.verdict(0.40, (0.30, 0.50), 0.29) == ("holds", "larger than published")
    assert verdicts.verdict(0.02, (-0.10, 0.15), 0.29)[1] == "the published size is excluded, none is not"


def test_a_comparison_pools_the_axes_that_it_leaves_out(tmp_path):
    sweep = only(write_sweep(tmp_path, AXES, flat))
    pairs = sweeps.sides(sweep, {"n": "16"}, {"n": "1"})
    assert pairs == [(("mt_oryx", "16"), ("mt_oryx", "1")), (("mt_bc_sable", "16"), ("mt_bc_sable", "1"))]
    inherited = sweeps.sides(sweep, {"n": "16", "algo": "mt_oryx"}, {"n": "1"})
    assert inherited == [(("mt_oryx", "16"), ("mt_oryx", "1"))]
    assert sweeps.sides(sweep, {"n": "64"}, {"n": "1"}) == []


def test_a_pooled_gain_is_the_ratio_of_means_over_all_tasks(tmp_path):
    sweep = only(write_sweep(tmp_path, AXES, flat, seeds=(0, 1)))
    found = measure.compare(sweep, sweeps.sides(sweep, {"n": "16"}, {"n": "1"}), "test", "best")
    # Means over algorithms, tasks and seeds: 0.02 n + 0.05 + 0.1 + 0.0005.
    assert found["gain"] == pytest.approx(0.4705 / 0.1705 - 1)
    assert found["tasks"] == 4 and found["runs_finished"] == found["runs_planned"] == 8


def test_a_comparison_takes_the_tasks_that_both_sides_share(tmp_path):
    def score(cell, seed):
        own = {"a/one": 0.5, "a/two": 0.9} if cell["n"] == "1" else {"a/two": 0.6, "a/one": 1.0}
        return own if cell["n"] == "1" else {**own, "a/three": 99.0}, {"b": 0.5}

    sweep = only(write_sweep(tmp_path, {"n": ["1", "2"]}, score))
    found = measure.compare(sweep, [(("2",), ("1",))], "train", "best")
    assert found["tasks"] == 2 and found["mean_of"] == pytest.approx(0.8)
    assert found["improvement"] == 0.5  # better on the one, worse on the other


@pytest.mark.parametrize(
    ("chosen_on", "last", "paired"),
    [(("test", "train"), (1.0, 1.0), True), (("train", "train"), (1.0, 1.0), False),
     (("test", "train"), (1.0, 0.9), False)],
)  # fmt: skip
def test_runs_that_only_the_choice_of_the_checkpoint_tells_apart_are_pairs(tmp_path, chosen_on, last, paired):
    write_sweep(tmp_path, {"choice": ["one", "two"]}, lambda cell, seed: None)
    for choice, select_on, scale in zip(("one", "two"), chosen_on, last, strict=True):
        for seed, end in enumerate((0.4, 0.5, 0.6)):
            # The same last policies, of which the one side's best is a tenth better.
            best = end * (1.1 if choice == "one" else 1.0)
            directory = tmp_path / f"choice={choice}/seed_{seed}"
            write_run(
                directory, {"a": 0.9}, {"b": best}, seed=seed, last=scale * end / best, select_on=select_on
            )
    found = measure.compare(only(tmp_path), [(("one",), ("two",))], "test", "best")
    assert found["gain"] == pytest.approx(0.1) and found["paired"] is paired
    low, high = found["interval"]
    assert (high - low < 1e-6) if paired else (low < 0 < high)


def test_claims_say_what_is_missing(tmp_path):
    paper = [
        {"claim": "more is more", "of": {"n": "16"}, "over": {"n": "1"}, "split": "test", "gain": 0.5},
        {"claim": "same", "of": {"n": "1"}, "over": {}, "split": "test", "gain": 0.5},
        {"claim": "not planned", "of": {"n": "64"}, "over": {"n": "1"}, "split": "test", "gain": 0.5},
        {"claim": "cut short", "of": {"n": "4"}, "over": {"n": "1"}, "split": "test", "gain": None},
    ]
    cut = [({"algo": "mt_oryx", "n": "4"}, 2)]
    sweep = only(write_sweep(tmp_path, AXES, flat, paper=paper, unfinished=cut))
    first, same, other, short = verdicts.claims(sweep, "best")
    assert first["verdict"] == "holds" and first["interval"][0] > 0.5
    assert same["verdict"] == "not comparable"
    assert other["verdict"] == short["verdict"] == "not yet run"
    assert short["why"] == "11 of 12 runs" and short["gain"] > 0


def test_one_seed_decides_nothing(tmp_path):
    paper = [{"claim": "x", "of": {"n": "16"}, "over": {"n": "1"}, "split": "test", "gain": 0.1}]
    (claim,) = verdicts.claims(only(write_sweep(tmp_path, AXES, flat, seeds=(0,), paper=paper)), "best")
    assert claim["verdict"] == "not decided at this n" and claim["gain"] > 0.1


def test_verdicts_go_by_whole_runs(tmp_path):
    """One run of three fails on all 20 tasks at once: 3 seeds cannot tell, and 60 scores are no 60 runs."""

    def score(cell, seed):
        level = 0.58 if cell["n"] == "4" else 0.5
        return {"a/x": 0.9}, {f"a/{k}": (0.1 if seed == 2 and cell["n"] == "4" else level) for k in range(20)}

    paper = [{"claim": "x", "of": {"n": "1"}, "over": {"n": "4"}, "split": "test", "gain": None}]
    sweep = only(write_sweep(tmp_path, {"n": ["1", "4"]}, score, paper=paper))
    (claim,) = verdicts.claims(sweep, "best")
    assert claim["interval"][0] < 0 < claim["gain"] < claim["detectable"]
    assert claim["verdict"] == "not decided at this n"
    table = tables.claims([claim])
    assert table is not None and table.header[4] == "smallest seen" and table.rows[0][4].startswith("±")
    assert table.header[3] == "ours − published" and table.rows[0][3] == formats.DASH
    (row,) = tables.claims([{**claim, "gain": 0.3, "published": 0.5}]).rows
    assert row[3] == "−20.0%"
    (cell,) = (c for c in measure.cells(sweep, "best") if c["cell"]["n"] == "4")
    # 0.42 ± 4.303 × 0.277 / √3: three seeds, two degrees of freedom.
    assert cell["test"]["mean_interval"] == pytest.approx((-0.2684, 1.1084), abs=1e-4)


def test_gains_above_random_play(tmp_path):
    """0.5 over 0.2 where random play scores 0.05 / 0.8; unknown where any task's random return is."""
    paper = [{"claim": "x", "of": {"n": "4"}, "over": {"n": "1"}, "split": "test", "gain": None}]
    given = lambda cell, seed: ({"a/x": 0.9}, {"a/y": {"4": 0.5, "1": 0.2}[cell["n"]]})
    sweep = only(write_sweep(tmp_path, {"n": ["1", "4"]}, given, paper=paper))
    (claim,) = verdicts.claims(sweep, "best")
    assert claim["gain"] == pytest.approx(1.5)
    assert claim["gain_above_random"] == pytest.approx((0.5 - 0.0625) / (0.2 - 0.0625) - 1)
    assert claim["interval_above_random"] == pytest.approx((claim["gain_above_random"],) * 2)
    for path in tmp_path.rglob("run.json"):
        path.write_text(path.read_text().replace('"random": 0.05', '"random": null'))
    (claim,) = verdicts.claims(only(tmp_path), "best")
    assert claim["gain"] == pytest.approx(1.5) and math.isnan(claim["gain_above_random"])
    assert all(map(math.isnan, claim["interval_above_random"]))


def test_published_scores_beside_ours(tmp_path):
    """Also from facts; of a cell without runs there is nothing to say yet."""
    published = [
        {"of": {"n": "1", "algo": "mt_oryx"}, "split": "test", "mean": 0.3, "standard_error": 0.01},
        {"of": {"n": "16"}, "split": "train", "mean": 0.5, "standard_error": None},
        {"of": {"n": "4"}, "split": "test", "mean": 0.5, "standard_error": None},
    ]
    cut = [({"algo": "mt_oryx", "n": "4"}, seed) for seed in (0, 1, 2)]
    root = write_sweep(tmp_path / "sweep", AXES, flat, published=published, unfinished=cut)
    assert report.main([str(root), "--out", str(tmp_path / "out")]) == 0
    for path in (root, tmp_path / "out/facts.jsonl"):
        sweep = only(path)
        first, pooled, missing = verdicts.published(sweep, "best")
        ours = measure.aggregate([sweep.runs(("mt_oryx", "1"))], "test", "best")
        assert ours is not None and first["mean"] == ours["mean"]
        assert first["difference"] == pytest.approx(ours["mean"] - 0.3)
        assert pooled["mean"] is not None and pooled["published_standard_error"] is None
        assert missing["mean"] is None and missing["difference"] is None
        table = tables.published(sweep, [first, pooled, missing])
        assert table is not None and table.rows[0][2] == "0.300 ± 0.010"
        assert table.rows[0][4].startswith(("+", "−")) and table.rows[2][3:] == (formats.DASH, formats.DASH)


def test_parts_of_one_sweep_are_put_together(tmp_path):
    halves = [
        write_sweep(tmp_path / m, AXES, lambda c, s, mine=mine: flat(c, s) if s in mine else None)
        for m, mine in (("left", (0, 2)), ("right", (1,)))
    ]
    sweep = only(*halves)
    assert all([r.seed for r in sweep.runs(c)] == [0, 1, 2] for c in sweep.cells())
    assert len(sweep.entries) == 18 and len(sweep.claims) == 0


def test_of_two_runs_of_one_seed_the_finished_counts_then_the_newer(tmp_path):
    axes, cell = {"n": ["1"]}, {"n": "1"}
    score = lambda value: lambda c, s: ({"a/x": 1.0}, {"a/y": value})
    whole = write_sweep(tmp_path / "whole", axes, score(0.3), seeds=(0,))
    cut = write_sweep(tmp_path / "cut", axes, score(0.9), seeds=(0,), unfinished=[(cell, 0)])
    again = write_sweep(tmp_path / "again", axes, score(0.5), seeds=(0,))
    write_run(again / "n=1/seed_0", {"a/x": 1.0}, {"a/y": 0.5}, started="2026-02-01T00:00:00")
    mean = lambda *paths: measure.cells(only(*paths), "best")[0]["test"]["mean"]
    for paths in ((cut, whole), (whole, cut)):
        assert mean(*paths) == pytest.approx(0.3)
    for paths in ((cut, whole, again), (again, cut, whole)):
        assert mean(*paths) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "something"}, "kind"),
        ({"axes": {"n": ["1"]}}, "no axis 'algo'"),
        ({"runs": []}, "no run"),
        ({"x": "m"}, "no axis 'm'"),
        ({"runs": [{"dir": "x", "cell": {"n": "1"}, "seed": 0}]}, "no level of axis 'algo'"),
        ({"runs": "?"}, "TypeError"),
        (None, "not a readable JSON file"),
    ],
)
def test_a_broken_sweep_file_is_named_and_its_runs_remain(tmp_path, change, words):
    write_sweep(tmp_path / "s", AXES, flat)
    file = tmp_path / "s/sweep.json"
    text = file.read_text()
    file.write_text(text[:-40] if change is None else json.dumps({**json.loads(text), **change}))
    found = load(tmp_path)
    ((place, reason),) = found.refused
    assert not found.sweeps and not found.directories
    assert place.endswith("s/sweep.json") and str(tmp_path) not in place and words in reason


def test_runs_that_are_not_what_was_planned_are_left_out(tmp_path):
    root = write_sweep(tmp_path, {"n": ["1"]}, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}), seeds=(0, 1, 2, 3))
    write_run(root / "n=1/seed_1", {"a/x": 1.0}, {"a/y": 0.5}, seed=7)
    (root / "n=1/seed_2/final.json").write_text("{}")
    (root / "n=1/seed_3/final.json").write_text('{"best": {"tasks": {}}, "last"')
    sweep = only(root)
    assert [r.seed for r in sweep.runs(("1",))] == [0]
    assert [t["state"].split(":")[0] for t in measure.to_do(sweep)] == ["foreign", "damaged", "damaged"]


def test_a_seed_that_diverged_is_named_and_in_no_mean(tmp_path):
    root = write_sweep(tmp_path, {"n": ["1"]}, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}), seeds=(0, 1))
    (root / "n=1/seed_1/final.json").unlink()
    write_json(root / "n=1/seed_1/diverged.json", {"line": "diverged at update 7: loss is nan"})
    sweep = only(root)
    assert [r.seed for r in sweep.runs(("1",))] == [0]
    assert measure.to_do(sweep) == [], "it would diverge again"
    (line,) = measure.diverged(sweep)
    assert line.endswith("seed 1: diverged at update 7: loss is nan")


def test_commands_are_those_of_the_plan(tmp_path):
    sweep = only(write_sweep(tmp_path, {"n": ["1"]}, lambda c, s: None, seeds=(3,)))
    (entry,) = sweep.entries
    assert entry.command.startswith("python -m mtmarl.train +algo=mt_oryx +tasks=lbf_5 seed=3 run_dir=")
    assert "run_dir" not in entry.recipe


def test_combined_scores_weigh_every_task_alike(tmp_path):
    def score(cell, seed):
        tasks = 1 if cell["env"] == "lbf" else 3
        return {"a/x": 1.0}, {f"{cell['env']}/{i}": 0.1 if tasks == 1 else 0.5 for i in range(tasks)}

    axes = {"env": ["lbf", "rware"], "algo": ["mt_oryx", "mt_bc_sable"]}
    titles = {"lbf": "LBF", "rware": "RWARE"}
    sweep = only(write_sweep(tmp_path, axes, score, panel="env", line="algo", titles=titles))
    pooled = measure.combined(sweep, "best")
    assert [c["test"]["mean"] for c in pooled] == pytest.approx([0.4, 0.4])
    table = tables.sweep_overview(sweep, measure.cells(sweep, "best"), pooled)
    assert table is not None and table.header == ("algo", "LBF", "RWARE", "combined")
    assert table.rows[0][3] == "**0.400 ± 0.000**"


def test_panels_may_end_at_different_levels(tmp_path):
    """The last level of x is each panel's own."""
    most = {"lbf": 2, "rware": 4}
    axes = {"env": list(most), "n": ["1", "2", "4"]}
    root = write_sweep(
        tmp_path, axes, lambda c, s: ({"a": 1.0}, {"b": 0.1 * int(c["n"])}), x="n", panel="env"
    )
    record = json.loads((root / "sweep.json").read_text())
    record["runs"] = [r for r in record["runs"] if int(r["cell"]["n"]) <= most[r["cell"]["env"]]]
    (root / "sweep.json").write_text(json.dumps(record))
    sweep = only(root)
    assert sweeps.finals(sweep) == {"lbf": {(): ("lbf", "2")}, "rware": {(): ("rware", "4")}}
    assert measure.combined(sweep, "best")[0]["test"]["mean"] == pytest.approx(0.3)
    assert [(one, other) for one, other, _ in sweeps.pairs(sweep)] == [
        ("lbf · n 2", "n 1"),
        ("rware · n 4", "n 1"),
    ]


def test_pairs_differ_in_one_axis_and_are_pooled_over_panels(tmp_path):
    axes = {"env": ["lbf", "rware"], "variant": ["full", "bare"], "algo": ["mt_oryx", "mt_bc_sable"]}
    sweep = only(write_sweep(tmp_path, axes, lambda c, s: None, panel="env", line="variant"))
    found = list(sweeps.pairs(sweep))
    assert len(found) == 4 * 3  # four pairs of variants, in two panels and pooled
    for _, _, pairs in found:
        assert all(sum(x != y for x, y in zip(a, b, strict=True)) == 1 for a, b in pairs)


@pytest.mark.parametrize(
    ("level", "value"),
    [
        ("64", 64.0),
        ("0.0625", 0.0625),
        ("50k", 5e4),
        ("6.2M", 6.2e6),
        ("25%", 0.25),
        ("full", None),
        ("v2", None),
    ],
)
def test_numbers_of_levels(level, value):
    assert sweeps.number(level) == (None if value is None else pytest.approx(value))


def test_titles():
    titles = {"m3": "M3", "mt_cql_sable": "MT CQL-Sable", "m3_finetune": "M3 finetune"}
    sweep = sweeps.Sweep("s", "cpu", "S", None, None, None, {}, (), (), titles=titles)
    assert sweep.title_of("mt_cql_sable") == "MT CQL-Sable" and sweep.title_of("m3_easy") == "M3 easy"
    assert sweep.title_of("m3_finetune") == "M3 finetune" and sweep.title_of("m3x") == "m3x"
    assert sweep.title_of("no_masks_no_shuffling") == "no masks no shuffling"


def test_settings_that_changed_within_a_cell_are_said(tmp_path):
    root = write_sweep(tmp_path, {"n": ["1", "2"]}, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}))
    assert plans.remarks(only(root)) == []
    again = {"seed": 2, "trainer": {"updates": 50}, "quiet": True}
    write_run(root / "n=2/seed_2", {"a/x": 1.0}, {"a/y": 0.5}, seed=2, config=again)
    (remark,) = plans.remarks(only(root))
    assert "**n 2: its runs are not seeds of one configuration.**" in remark
    assert "trainer.updates (not set: seeds 0, 1; 50: seed 2)" in remark and "quiet" not in remark


def test_a_level_that_was_made_again_with_other_settings_is_said(tmp_path):
    """All seeds of it, in another directory, so that its cell is whole in itself."""
    halves = [
        write_sweep(tmp_path / m, AXES, lambda c, s, mine=mine: flat(c, s) if c["n"] == mine else None)
        for m, mine in (("first", "1"), ("again", "4"))
    ]
    assert plans.remarks(only(*halves)) == []
    record = json.loads((halves[1] / "sweep.json").read_text())
    for run in record["runs"]:
        run["argv"] += ["trainer.updates=50", "quiet=true"]
    (halves[1] / "sweep.json").write_text(json.dumps(record))
    (remark,) = plans.remarks(only(*halves))
    assert "planned with different settings** (trainer.updates=50)" in remark
    assert report.main([*map(str, halves), "--out", str(tmp_path / "out")]) == 0
    assert remark in (tmp_path / "out/report.md").read_text()
    (numbers,) = json.loads((tmp_path / "out/results.json").read_text())["sweeps"]
    assert numbers["remarks"] == [remark]

    for half in halves:  # planned differently, run alike: one part relied on what was then the default
        for path in half.glob("*/*/*/run.json"):
            run = json.loads(path.read_text())
            path.write_text(json.dumps(run | {"config": run["config"] | {"trainer": {"updates": 50}}}))
    assert plans.remarks(only(*halves)) == []


def test_seeds_that_train_on_tasks_of_their_own(tmp_path):
    """Three runs of one task each beside a run of all three: training scores are pairs, task by task."""
    own = {"a/x": 0.9, "a/y": 0.6, "a/z": 0.3}
    together = {"a/x": 0.8, "a/y": 0.5, "a/z": 0.2}

    def score(cell, seed):
        task = list(own)[seed]
        return ({task: own[task]} if cell["n"] == "1" else together), {"a/t": {"1": 0.4, "3": 0.6}[cell["n"]]}

    root = write_sweep(tmp_path, {"n": ["1", "3"]}, score)
    for seed in range(3):
        file = root / f"n=1/seed_{seed}/run.json"
        record = json.loads(file.read_text())
        record["config"].setdefault("tasks", {})["start"] = seed
        write_json(file, record)
    sweep = only(root)
    one, three = measure.cells(sweep, "best")
    assert one["train"]["mean"] == pytest.approx(0.6) and three["train"]["mean"] == pytest.approx(0.5)
    found = measure.compare(sweep, [(("1",), ("3",))], "train", "best")
    assert found["difference"] == pytest.approx(0.1) and found["paired"]
    assert found["difference_interval"] == pytest.approx((0.1, 0.1))
    turned = measure.compare(sweep, [(("3",), ("1",))], "train", "best")
    assert turned["difference"] == pytest.approx(-0.1)
    held_out = measure.compare(sweep, [(("3",), ("1",))], "test", "best")
    assert held_out["gain"] == pytest.approx(0.5) and not held_out["paired"]
    assert not plans.remarks(sweep)
