"""The audit refuses what does not compare, and nothing else, on facts made here."""

import json

import pytest

from mtmarl.analysis import audit, facts, plans

from .run_directories import write_sweep

SEEDS = tuple(range(5))
CLAIM = {"claim": "a over b", "of": {"variant": "a"}, "over": {"variant": "b"}, "split": "test", "gain": None}


def score(cell, seed):
    return {"lbf/x": 0.5, "lbf/z": 0.5}, {"lbf/y": (0.7 if cell["variant"] == "a" else 0.4) + 0.01 * seed}


def refused(tmp_path, change=lambda record, final: None, score=score, page="", headline=True, **more):
    """The refusals of a sweep of variants a, b and c whose runs of variant a are changed."""
    given = {"seeds": SEEDS, "paper": [CLAIM], **more}
    root = write_sweep(tmp_path / "runs", {"variant": ["a", "b", "c"]}, score, **given)
    for file in root.glob("variant=*/*/run.json"):
        record, final = (json.loads((file.parent / f"{n}.json").read_text()) for n in ("run", "final"))
        record["acting"] = "sampled from the policy"
        if "variant=a" in str(file):
            change(record, final)
        file.write_text(json.dumps(record))
        file.with_name("final.json").write_text(json.dumps(final))
    (sweep,) = plans.load(facts.load([root])).sweeps
    (tmp_path / "results/example").mkdir(parents=True)
    facts.append(tmp_path / "results/example/facts.jsonl", plans.lines(sweep, [root]))
    (tmp_path / "page.md").write_text(page)
    return audit.refusals(tmp_path / "results", {tmp_path / "page.md": headline})


def test_equal_terms_are_not_refused(tmp_path):
    page = (
        "<!-- results: example claim 1 -->x<!-- end --> <!-- results: example score test c -->x<!-- end -->"
    )
    assert refused(tmp_path, page=page) == []


def updates(record, final):
    record["updates"] = 4000


def acting(record, final):
    record["acting"] = "greedy"


def episodes(record, final):
    for scored in final.values():
        for own in scored["tasks"].values():
            own["return"] *= 2


def selection(record, final):
    record["select_on"] = "test"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (updates, "updates 4000; other cells have 1000"),
        (acting, "acting greedy; other cells have sampled"),
        (episodes, "episodes 8; other cells have 4"),
        (selection, "checkpoint rule test; other cells have train"),
    ],
)
def test_cells_on_other_terms_are_refused(tmp_path, change, words):
    assert refused(tmp_path, change) == [f"results/example/facts.jsonl: variant=a: {words}"]


def test_an_axis_may_vary_one_of_the_terms(tmp_path):
    """Where nothing else differs along it: that is what the sweep asks."""

    def change(record, final):
        record["select_on"] = "test"
        record["config"]["evaluator"] = {"select_on": "test"}

    assert refused(tmp_path, change) == []


def test_seeds_of_one_cell_must_agree(tmp_path):
    change = lambda record, final: record.update(updates=1000 * (1 + record["seed"] % 2))
    (line,) = refused(tmp_path, change)
    assert line.endswith("variant=a: updates 1000 and 2000; other cells have 1000")


@pytest.mark.parametrize("claims", [[CLAIM], []])
def test_a_verdict_with_one_first_task_is_refused(tmp_path, claims):
    """A claim, and a comparison that a page quotes; with a first task for each seed it is accepted."""
    first = lambda cell, seed, task: (
        ({task: 0.5}, score(cell, seed)[1]) if cell["variant"] == "b" else score(cell, seed)
    )
    page = "<!-- results: example compare a over b -->x<!-- end -->"
    found = refused(
        tmp_path / "one", score=lambda c, s: first(c, s, "lbf/x"), page=page, headline=False, paper=claims
    )
    line = "variant=b: one first task only, lbf/x"
    at_claim = [f"results/example/facts.jsonl: claim 1 (a over b): {line}"] if claims else []
    assert found == [*at_claim, f"page.md: example compare a over b: {line}"]
    own = lambda c, s: first(c, s, f"lbf/{s}")
    assert refused(tmp_path / "all", score=own, page=page, headline=False) == []


def test_headlines_need_five_seeds(tmp_path):
    page = "<!-- results: example gain 1 above random -->x<!-- end -->"
    found = refused(tmp_path / "few", page=page, seeds=(0, 1, 2))
    few = "a headline with 3 seeds, fewer than 5"
    assert found == [f"page.md: example gain 1 above random: variant={v}: {few}" for v in "ab"]
    assert refused(tmp_path / "docs", page=page, seeds=(0, 1, 2), headline=False) == []


def test_a_headline_without_facts_is_refused(tmp_path):
    assert refused(tmp_path, page="<!-- results: gone claim 1 -->x<!-- end -->") == [
        "page.md: gone claim 1: no facts of it"
    ]
