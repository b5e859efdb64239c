"""The report on directories as they are written: what it shows, what it leaves out, and that it never changes."""

import json
import re
import shutil
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from mtmarl import report
from mtmarl.analysis import document, facts, measure, plans, run_tables, runs, sections, sweep_plots
from mtmarl.sweeps.plan import write_plan
from tests.unit.analysis.run_directories import (
    REFERENCE,
    write_collection,
    write_json,
    write_run,
    write_sweep,
)

AXES = {"env": ["lbf", "rware"], "n": ["1", "4", "16"], "algo": ["mt_oryx", "mt_bc_sable"]}
PAPER = [
    {"claim": "more | is_more & 100%", "of": {"n": "16"}, "over": {"n": "1"}, "split": "test", "gain": 0.3},
    {"claim": "a decline", "of": {"n": "1"}, "over": {"n": "16"}, "split": "train", "gain": None},
]


def score(cell, seed):
    rng = np.random.default_rng([len(cell["env"]), int(cell["n"]), len(cell["algo"]), seed])
    level = 0.3 + 0.1 * np.log2(int(cell["n"]))
    noisy = lambda base: float(base + rng.normal(0, 0.02))
    train = {f"{cell['env']}/train-{i}": noisy(0.9 - 0.01 * int(cell["n"])) for i in range(2)}
    return train, {f"{cell['env']}/test-{i}": noisy(level) for i in range(3)}


def plan(root, **more):
    given = {"paper": PAPER, "x": "n", "panel": "env", "line": "algo", "title": "Number of tasks", **more}
    return write_sweep(root, AXES, given.pop("score", score), **given)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole sweep, reported from outside its directory."""
    root = tmp_path_factory.mktemp("report")
    plan(root / "sweep")
    assert report.main([str(root / "sweep"), "--out", str(root / "out")]) == 0
    return root / "out"


def test_a_sweep_leaves_all_forms(written):
    for name in ("report.md", "report.html", "results.json", "facts.jsonl", "example-cpu.png"):
        assert (written / name).stat().st_size > 0, name
    assert not list(written.glob("*.svg")) and not list(written.glob("*.pdf"))
    text = (written / "report.md").read_text()
    for line in text.splitlines():
        if found := re.match(r"!\[.*\]\((.*)\)$", line):
            assert (written / found[1]).exists()
    for heading in (
        "Published claims",
        "Scores",
        "Combined over panels",
        "Comparisons between cells",
        "Training",
    ):
        assert f"### {heading}" in text
    assert "36 of 36 runs finished" in text and "Runs to do" not in text


def test_results_hold_what_the_tables_show(written):
    results = json.loads((written / "results.json").read_text())
    (sweep,) = results["sweeps"]
    text = (written / "report.md").read_text()
    for cell in sweep["cells"]:
        low, high = cell["test"]["mean_interval"]
        assert f"{cell['test']['mean']:.3f} [{low:.3f}, {high:.3f}]" in text
    claim, decline = sweep["claims"]
    assert claim["verdict"] == "holds" and decline["verdict"] == "holds"
    assert f"{claim['gain']:+.1%}" in text
    assert claim["tasks"] == 12 and claim["runs_planned"] == 24
    plan, *found = facts_in(written)
    assert plan["kind"] == "sweep" and len(found) == len(plan["runs"]) == 36
    for run in found:
        assert run["hardware"] and run["commit"] and run["minutes"] == 12.5
        assert run["command"].startswith("python -m mtmarl.train ") and not run["dir"].startswith("/")
        assert run["scores"].keys() == run["references"].keys()


def test_results_follow_from_the_scores(written):
    """The mean of a cell from the returns of its runs, worked out anew."""
    results = json.loads((written / "results.json").read_text())
    (sweep,) = results["sweeps"]
    cell = {"env": "rware", "n": "4", "algo": "mt_bc_sable"}
    normalised = [
        run["scores"][t]["best"]["return"] / run["references"][t]["reference"]
        for run in facts_in(written)[1:]
        for t in run["test_tasks"]
        if run["cell"] == cell
    ]
    (numbers,) = [c for c in sweep["cells"] if c["cell"] == cell]
    assert len(normalised) == 9 and numbers["test"]["mean"] == pytest.approx(np.mean(normalised), abs=1e-5)


def assert_alike(one, other):
    """Equal but for the last of the six digits that results.json keeps."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    else:
        assert one == (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(other, float) else other)


def results_in(directory):
    return json.loads((directory / "results.json").read_text())


def facts_in(directory):
    return [json.loads(line) for line in (directory / "facts.jsonl").read_text().splitlines()]


def earlier_results(directory, **more):
    """The results.json that reports of format 2 wrote of these facts."""
    lines, results = facts_in(directory), results_in(directory)
    references, known = {}, {}
    for line in lines:
        if line["kind"] != "sweep":
            references |= line.pop("references")
            known[f"{len(known)}"] = line["settings"]
            line["settings"] = f"{len(known) - 1}"
            split = {t: s for s in ("train", "test") for t in line.pop(f"{s}_tasks")}
            for task, own in line.get("scores", {}).items():
                own["split"] = split[task]
    of = lambda line: line.get("sweep")
    sweeps = [{**s, "runs": [r for r in lines if of(r) == s["name"]]} for s in results["sweeps"]]
    plain = [line for line in lines if of(line) is None and line["kind"] == "train"]
    collection = [
        {**own, "run": run}
        for own, run in zip(
            results.get("collection", []), [r for r in lines if r["kind"] == "collect"], strict=True
        )
    ]
    return {
        "format": 2, "method": {}, "sweeps": sweeps, "experiments": [{"runs": plain}], "references": references,
        "settings": known, "collection": collection, **more,
    }  # fmt: skip


@pytest.mark.parametrize("earlier", [False, True])
def test_facts_stand_for_the_runs_that_they_are_of(written, tmp_path, earlier):
    """Also those in the results.json of earlier versions."""
    file = written / "facts.jsonl"
    if earlier:
        write_json(file := tmp_path / "results.json", earlier_results(written))
    assert report.main([str(file), "--out", str(tmp_path)]) == 0
    assert_alike(results_in(tmp_path), results_in(written))
    assert (tmp_path / "report.md").read_text() == (written / "report.md").read_text()
    assert facts_in(tmp_path) == facts_in(written)
    assert (tmp_path / "example-cpu-curves.png").stat().st_size > 0


def test_greedy_play_has_a_table_where_it_was_scored(written, tmp_path):
    """Half as good here; of two seeds of one cell, with those of another without."""
    plan(tmp_path / "sweep")
    assert "Greedy play" not in (written / "report.md").read_text()
    for seed in (0, 1):
        file = tmp_path / "sweep" / f"env=lbf/n=4/algo=mt_oryx/seed_{seed}" / "final.json"
        final = json.loads(file.read_text())
        for scored in final.values():
            for own in scored["tasks"].values():
                own["greedy_return"] = 0.5 * float(np.mean(own["return"]))
        write_json(file, final)
    assert report.main([str(tmp_path / "sweep"), "--out", str(tmp_path / "one")]) == 0
    cells = results_in(tmp_path / "one")["sweeps"][0]["cells"]
    (cell,) = [c for c in cells if c["greedy_seeds"]]
    assert cell["cell"] == {"env": "lbf", "n": "4", "algo": "mt_oryx"} and cell["greedy_seeds"] == [0, 1]
    means = [np.mean([0.5 * s for s in score(cell["cell"], seed)[1].values()]) for seed in (0, 1)]
    assert cell["greedy"]["test"]["mean"] == pytest.approx(np.mean(means), rel=1e-4)
    assert re.search(
        r"### Greedy play.*\n\| lbf \| 4 \| MT Oryx \| 2 of 3 \|",
        (tmp_path / "one/report.md").read_text(),
        re.S,
    )
    assert report.main([str(tmp_path / "one" / "facts.jsonl"), "--out", str(tmp_path / "two")]) == 0
    assert_alike(results_in(tmp_path / "two"), results_in(tmp_path / "one"))


def test_experiments_come_back_from_results(tmp_path):
    more = {
        "config": {"seed": 0, "algo": {"tau": 0.03}},
        "start": {"from": "/home/me/runs/a/seed_0", "algo": "m3"},
    }
    for seed in (0, 1):
        write_run(tmp_path / "all" / f"s{seed}", {"lbf/a": 0.5}, {"lbf/b": 0.4}, seed, **more)
    write_run(tmp_path / "all" / "other", {"lbf/a": 0.5}, {"lbf/b": 0.3}, config={"algo": {"tau": 0.005}})
    assert report.main([str(tmp_path / "all"), "--out", str(tmp_path / "one")]) == 0
    assert report.main([str(tmp_path / "one" / "facts.jsonl"), "--out", str(tmp_path / "two")]) == 0
    assert "/home/me" not in (tmp_path / "one" / "facts.jsonl").read_text()
    assert_alike(results_in(tmp_path / "one"), results_in(tmp_path / "two"))
    assert "jump" in (tmp_path / "two" / "report.md").read_text().lower()


def test_runs_and_the_results_of_others_are_one_sweep(written, tmp_path):
    """One machine made seed 0 and sent its report, the other has the rest."""
    part = lambda seeds: lambda cell, seed: score(cell, seed) if seed in seeds else None
    plan(tmp_path / "first", score=part((0,)))
    plan(tmp_path / "second", score=part((1, 2)))
    assert report.main([str(tmp_path / "first"), "--out", str(tmp_path / "sent")]) == 0
    paths = [tmp_path / "second", tmp_path / "sent" / "facts.jsonl"]
    (both,) = plans.load(facts.load(paths)).sweeps
    assert_alike(facts.finite(measure.cells(both, "best")), results_in(written)["sweeps"][0]["cells"])


def test_old_results_have_no_learning_curves(written, tmp_path):
    results = earlier_results(written, format=1, settings={})
    for run in results["sweeps"][0]["runs"]:
        del run["evaluations"], run["settings"]
    write_json(tmp_path / "old.json", results)
    assert report.main([str(tmp_path / "old.json"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "36 of 36 runs finished" in text and "kept of 36 of these runs" in text
    assert not list((tmp_path / "out").glob("*curves*"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"format": 2, "sweeps"', "Expecting"),
        ('{"format": 3, "sweeps": []}', "statistics alone; give the facts.jsonl"),
        ('{"format": 4, "sweeps": []}', "format 4"),
        ("[]", "holds no object"),
        (
            '{"format": 2, "sweeps": [{"runs": [{"scores": {}}]}], "experiments": [], "references": {}}',
            "kind",
        ),
    ],
)
def test_results_that_are_none_are_named(tmp_path, capsys, content, reason):
    write_run(tmp_path / "good", {"lbf/a": 0.5}, {"lbf/b": 0.4})
    (tmp_path / "bad.json").write_text(content)
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "good"), str(tmp_path / "bad.json"), "--out", str(out)]) == 0
    assert "`bad.json`: " in (out / "report.md").read_text() and reason in (out / "report.md").read_text()
    assert report.main([str(tmp_path / "bad.json"), "--out", str(out)]) == 2
    assert "bad.json" in capsys.readouterr().err


def test_no_path_of_the_machine_is_told(written):
    for name in ("report.md", "report.html", "facts.jsonl", "results.json"):
        assert str(written.parent) not in (written / name).read_text()


def test_the_same_runs_give_the_same_bytes(written, tmp_path):
    assert report.main([str(written.parent / "sweep"), "--out", str(tmp_path)]) == 0
    for file in written.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


class _Page(HTMLParser):
    """Notes tags that stay open, links, anchors and images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.anchors, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(of["src"])
        self.links += [of["href"]] if tag == "a" else []
        self.anchors += [of["id"]] if "id" in of else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(written):
    text = (written / "report.html").read_text()
    page = _Page(text)
    assert not page.open and page.images
    assert all(src.startswith("data:image/png;base64,") for src in page.images)
    assert "more | is_more &amp; 100%" in text and "<nav>" not in text


def test_several_sections_get_a_table_of_contents(written, tmp_path):
    write_run(tmp_path / "single", {"a/x": 1.0}, {"a/y": 0.5})
    write_collection(tmp_path / "online", "lbf/one")
    paths = [str(written.parent / "sweep"), str(tmp_path)]
    assert report.main([*paths, "--out", str(tmp_path / "out")]) == 0
    page = _Page((tmp_path / "out/report.html").read_text())
    assert len(page.links) == 3
    assert page.links == [f"#{a}" for a in page.anchors]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [len(results[k]) for k in ("sweeps", "experiments", "collection")] == [1, 1, 1]


def test_latex_is_escaped_and_balanced(written, tmp_path):
    assert report.main([str(written / "facts.jsonl"), "--out", str(tmp_path), "--latex"]) == 0
    assert (tmp_path / "example-cpu.pdf").read_bytes().startswith(b"%PDF")
    text = (tmp_path / "table.tex").read_text()
    assert r"more \textbar{} is\_more \& 100\%" in text
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 3
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.S):
        rows = [r for r in block.splitlines() if r.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", r)) for r in rows}) == 1
    assert text.isascii()


def test_missing_runs_are_counted_and_their_commands_given(tmp_path, capsys):
    cut = {"env": "lbf", "n": "4", "algo": "mt_oryx"}
    partly = lambda cell, seed: None if cell["n"] == "16" and seed == 2 else score(cell, seed)
    plan(tmp_path / "sweep", score=partly, unfinished=[(cut, 1)])
    assert report.main([str(tmp_path / "sweep")]) == 0
    line, where = capsys.readouterr().out.splitlines()
    assert line.startswith("example (cpu): 31 of 36 runs finished, 5 missing or unfinished")
    assert where == f"report: {tmp_path / 'sweep/report/report.md'}"
    text = (tmp_path / "sweep/report/report.md").read_text()
    assert "# unfinished: env=lbf, n=4, algo=mt_oryx, seed 1" in text
    command = "python -m mtmarl.train +algo=mt_bc_sable +tasks=lbf_5 seed=2 "
    assert command + "run_dir=runs/s/env=rware/n=16/algo=mt_bc_sable/seed_2" in text
    results = json.loads((tmp_path / "sweep/report/results.json").read_text())["sweeps"][0]
    assert len(results["to_do"]) == 5 and results["claims"][0]["verdict"] == "not yet run"
    assert "not yet run" in text and "2 of 3" in text


def test_panels_are_pooled_where_several_have_runs(tmp_path):
    plan(tmp_path / "one", score=lambda cell, seed: score(cell, seed) if cell["env"] == "lbf" else None)
    plan(tmp_path / "two")
    for name, pooled in (("one", False), ("two", True)):
        (found,) = plans.load(facts.load([tmp_path / name])).sweeps
        names = [c["one"] for c in measure.comparisons(found, "best")]
        assert names and any(n.startswith("all panels") for n in names) == pooled


def test_a_sweep_that_has_not_begun_gives_its_commands(tmp_path):
    plan(tmp_path, score=lambda cell, seed: None)
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert text.count("python -m mtmarl.train") == 36 and "0 of 36" in text


@pytest.mark.parametrize(
    ("roles", "panels"),
    [
        ({"x": None, "panel": None, "line": "algo"}, 2),
        ({"x": None, "panel": "env", "line": "algo"}, 2),  # panels are groups of bars
        ({"x": "algo", "panel": "env", "line": "n"}, 4),
        ({"x": "n", "panel": "env", "line": "algo"}, 4),
        ({"x": "n", "panel": None, "line": None}, 2),
    ],
)
def test_every_role_of_the_axes_is_drawn(tmp_path, roles, panels):
    (sweep,) = plans.load(facts.load([plan(tmp_path, seeds=(0, 1), **roles)])).sweeps
    before = dict(matplotlib.rcParams)
    cells, combined = measure.cells(sweep, "best"), measure.combined(sweep, "best")
    figure = sweep_plots.sweep_figure(sweep, cells, combined)
    assert figure is not None and len(figure.axes) == panels
    drawn = [len(axis.lines) + len(axis.patches) for axis in figure.axes]
    assert min(drawn) > 0
    assert len(document.Picture("x", figure, "").png) > 1000
    assert dict(matplotlib.rcParams) == before and not matplotlib._pylab_helpers.Gcf.figs


def test_lines_stand_at_their_levels_on_a_log_scale(tmp_path):
    axes = {"n": ["1", "2", "16"]}
    root = write_sweep(tmp_path, axes, lambda c, s: ({"a": 0.9}, {"b": 0.01 * int(c["n"]) + 0.1 * s}), x="n")
    (sweep,) = plans.load(facts.load([root])).sweeps
    figure = sweep_plots.sweep_figure(sweep, measure.cells(sweep, "best"), [])
    assert figure is not None
    axis = figure.axes[1]
    assert axis.get_xscale() == "log" and list(axis.get_xticks()) == [1, 2, 16]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.11, 0.12, 0.26])
    assert len(axis.collections) == 1  # the band


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    write_run(tmp_path / "whole", {"a/x": 1.0}, {"a/y": 0.5})
    write_run(tmp_path / "half", {"a/x": 1.0}, {"a/y": 0.5}, finished=False)
    write_run(tmp_path / "older", {"a/x": 1.0}, {"a/y": 0.5})
    (tmp_path / "older/final.json").write_text('{"best": {}, "last": {}}')
    write_run(tmp_path / "nan", {"a/x": float("nan")}, {"a/y": 0.5})
    write_run(tmp_path / "odd", {"a/x": 1.0}, {"a/y": 0.5}, config=["seed=0"])
    write_run(tmp_path / "slow", {"a/x": 1.0}, {"a/y": 0.5}, minutes="12")
    write_run(tmp_path / "words", {"a/x": 1.0}, {"a/y": 0.5})
    with (tmp_path / "words/metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "eval/a/x/return": "high"}\n')
    write_run(tmp_path / "won", {"a/x": 1.0}, {"a/y": 0.5})
    won = (tmp_path / "won/final.json").read_text()
    (tmp_path / "won/final.json").write_text(won.replace('"greedy_return": null', '"win_rate": "all"'))
    for name, text in (("torn", '{"kind": "tr'), ("list", "[]"), ("foreign", '{"a": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    with (tmp_path / "whole/metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "ev')
    missing = tmp_path / "nowhere"
    assert report.main([str(tmp_path), str(missing), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    for name in ("older", "nan", "odd", "slow", "words", "won", "torn", "list", "foreign", "nowhere"):
        assert re.search(rf"^- `.*{name}`: \w+", text, re.M), name
    assert "mt_oryx · lbf_5" in text and str(tmp_path) not in text
    assert "## Unfinished runs" in text


def test_a_run_with_a_section_in_place_of_a_value_is_left_out(tmp_path):
    scored = {"lbf/a": 0.5}
    write_run(tmp_path / "good", scored, scored)
    write_run(tmp_path / "bad", scored, scored, seed=1, config={"seed": 1, "collect": {"explore": {"a": 1}}})
    text = report.write_report([tmp_path], tmp_path / "out").read_text()
    assert re.search(r"bad.*damaged: config: collect.explore", text)


def test_references_that_are_no_numbers_are_refused(tmp_path, capsys):
    write_run(tmp_path / "good", {"lbf/a": 0.5}, {"lbf/b": 0.5})
    write_json(tmp_path / "vaults/references/lbf/a.json", {"reference": 0.5, "random": "x"})
    argv = [str(tmp_path / "good"), "--out", str(tmp_path / "out"), "--references", str(tmp_path / "vaults")]
    assert report.main(argv) == 2
    assert "references/lbf/a.json: random must be float, not 'x'" in capsys.readouterr().err


def test_one_broken_run_of_an_earlier_report_leaves_the_others(written, tmp_path):
    results = earlier_results(written)
    broken = results["sweeps"][0]["runs"][3]
    task = next(iter(broken["scores"]))
    broken["scores"][task]["best"]["return"] = None
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert report.main([str(tmp_path / "results.json"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert (
        "35 of 36 runs finished" in text
        and f"{broken['dir']}`: final.json: best.tasks.{task}.return must be float" in text
    )


def test_where_a_report_goes(tmp_path, capsys, monkeypatch):
    """Into what it is about; of several paths the first may well have a report of its own."""
    for name in ("one", "two"):
        write_run(tmp_path / f"runs/{name}", {"a/x": 1.0}, {"a/y": 0.5}, seed=len(name), algo=name)
    monkeypatch.chdir(tmp_path)
    for given, place in (
        (["runs/one"], "runs/one/report"),
        (["runs"], "runs/report"),
        (["runs/one", "runs/two"], "report"),
        (["runs", "--out", "elsewhere"], "elsewhere"),
    ):
        assert not (tmp_path / place).exists()
        assert report.main(given) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"report: {place}/report.md"
        assert (tmp_path / place / "report.md").exists()


def test_the_record_of_other_runs_is_not_written_over(written, tmp_path, capsys):
    write_run(tmp_path / "single", {"a/x": 1.0}, {"a/y": 0.5})
    kept = shutil.copytree(written, tmp_path / "kept")
    before = (kept / "facts.jsonl").read_bytes()
    assert report.main([str(tmp_path / "single"), "--out", str(kept)]) == 2
    assert "a report on 36 runs that this one lacks, such as example cpu lbf" in capsys.readouterr().err
    assert (kept / "facts.jsonl").read_bytes() == before
    both = [str(tmp_path / "single"), str(written / "facts.jsonl"), "--out", str(kept)]
    assert report.main(both) == 0 and len(facts_in(kept)) == 38
    (kept / "facts.jsonl").write_text("{}")
    assert report.main([str(tmp_path / "single"), "--out", str(kept)]) == 2
    assert "give another --out" in capsys.readouterr().err
    # A report beside what it is of follows that.
    for name in ("one", "two"):
        write_run(tmp_path / "place" / name, {"a/x": 1.0}, {"a/y": 0.5}, seed=len(name), algo=name)
        assert report.main([str(tmp_path / "place")]) == 0
        shutil.rmtree(tmp_path / "place" / name)


def test_a_setting_that_came_later_had_its_default(tmp_path):
    for seed, own in enumerate(({}, {"explore": 1.0}, {"explore": 0.5})):
        played = {"config": {"collect": {"num_envs": 8, **own}}, "counts": {"env_steps": 1}}
        write_run(tmp_path / str(seed), {"a/x": 1.0}, {"a/y": 0.5}, seed, **played)
    assert report.main([str(tmp_path)]) == 0
    found = json.loads((tmp_path / "report/results.json").read_text())["experiments"]
    assert sorted(len(e["runs"]) for e in found) == [1, 2]
    assert "explore=0.5" in (tmp_path / "report/report.md").read_text()


def test_cells_of_other_tasks_are_drawn_as_pairs_that_share_them(tmp_path):
    of = {"lbf": ["lbf/y"], "all": ["lbf/y", "rware/y"], "rware": ["rware/y"]}
    given = lambda cell, seed: ({"a/x": 1.0}, {task: 0.5 + 0.01 * seed for task in of[cell["set"]]})
    write_sweep(tmp_path, {"set": ["all", "lbf", "rware"]}, given, line="set")
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert sections.SHARED_TASKS in text and "Not all cells" in text
    (sweep,) = plans.load(facts.load([tmp_path])).sweeps
    found = measure.comparisons(sweep, "best")
    figure = sweep_plots.comparisons(found)
    assert figure is not None
    (axis,) = figure.axes
    assert len(axis.patches) == 2 * len(found) == 4
    assert [t.get_text() for t in axis.get_xticklabels()] == ["lbf: 1 task", "rware: 1 task"]
    assert sweep_plots.comparisons([]) is None


def test_minutes_are_those_of_a_run_and_hours_those_of_all(tmp_path):
    axes = {"n": ["1", "2"]}
    write_sweep(tmp_path, axes, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}))
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "| 1 | 116,000 | 1,000 | 12.5 |" in text
    (numbers,) = json.loads((tmp_path / "report/results.json").read_text())["sweeps"]
    assert numbers["cells"][0]["minutes"] == 37.5 and numbers["provenance"][0]["minutes"] == 75.0
    assert "| 6 | 1.25 |" in text


def test_what_was_played_stands_beside_the_updates(tmp_path):
    axes = {"method": ["hygen", "bc_t"]}
    write_sweep(tmp_path, axes, lambda c, s: ({"a/x": 1.0}, {"a/y": 0.5}))
    for seed in range(3):
        for method, counts in (
            ("hygen", {"env_steps": 3000, "episodes": 90 + seed}),
            ("bc_t", {"updates": 5}),
        ):
            file = tmp_path / f"method={method}/seed_{seed}/run.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"counts": counts}))
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "| updates | env steps played | episodes played | minutes per run |" in text
    assert "| 1,000 | 3,000 | 91 | 12.5 |" in text and "| 1,000 | 0 | 0 | 12.5 |" in text


def test_a_run_that_diverged_has_a_report_without_scores(tmp_path):
    run = write_run(tmp_path / "run", {"a/x": 0.9}, {"a/y": 0.5}, finished=False)
    write_json(run / "diverged.json", {"line": "diverged at update 7: loss is nan"})
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert not results["experiments"] and "diverged at update 7" in results["left_out"][0]["reason"]
    for name in ("report.md", "report.html"):
        assert "diverged at update 7: loss is nan" in (tmp_path / "out" / name).read_text()


def test_facts_hold_runs_that_diverged_or_are_not_finished(tmp_path):
    """Outside of a sweep, and in one; what is reported of the facts is what is reported of the folders."""
    write_run(tmp_path / "runs/good", {"a/x": 0.9}, {"a/y": 0.5})
    lost = write_run(tmp_path / "runs/lost", {"a/x": 0.9}, {"a/y": 0.5}, seed=1, finished=False)
    write_run(tmp_path / "runs/going", {"a/x": 0.9}, {"a/y": 0.5}, seed=2, finished=False)
    plan(tmp_path / "sweep", seeds=(0, 1), unfinished=[({"env": "lbf", "n": "1", "algo": "mt_oryx"}, 1)])
    gone = tmp_path / "sweep/env=lbf/n=4/algo=mt_oryx/seed_1"
    for run in (lost, gone):
        write_json(run / "diverged.json", {"line": "diverged at update 7: loss is nan"})
    paths = [str(tmp_path / "runs"), str(tmp_path / "sweep")]
    assert report.main([*paths, "--out", str(tmp_path / "one"), "--pictures"]) == 0
    text = (tmp_path / "one/report.md").read_text()
    assert "| mt_oryx · lbf_5, seed 2 | 500 of 1,000 | 0.885 | 0.492 |" in text and "in no mean" in text
    assert "| lbf · n 1 · MT Oryx, seed 1 | 500 of 1,000 |" in text
    assert text.count("diverged at update 7") >= 2 and "22 of 24 runs finished" in text
    again = ["--out", str(tmp_path / "two"), "--pictures"]
    assert report.main([str(tmp_path / "one/facts.jsonl"), *again]) == 0
    assert (tmp_path / "two/report.md").read_text() == text
    assert facts_in(tmp_path / "two") == facts_in(tmp_path / "one")
    assert_alike(results_in(tmp_path / "two"), results_in(tmp_path / "one"))


def test_a_sweep_keeps_its_facts(tmp_path):
    """Each run once, when it has ended; they outlive the folders of the runs, and a line that was cut off."""
    root, kept = tmp_path / "s", tmp_path / "s/facts.jsonl"
    make = lambda known: plan(root, score=lambda c, s: score(c, s) if s in known else None)
    make((0,))
    write_plan(json.loads((root / "sweep.json").read_text()), root)
    for known, lines in (((0,), 13), ((0,), 13), ((0, 1), 25)):
        make(known)
        plans.keep(root)
        assert len(facts_in(root)) == lines
    cut = kept.read_text()
    kept.write_text(cut[:-20])
    plans.keep(root)
    assert kept.read_text().splitlines()[-1] == cut.splitlines()[-1]
    for folder in root.glob("env=*"):
        shutil.rmtree(folder)
    assert report.main([str(root), "--out", str(tmp_path / "out"), "--pictures"]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "24 of 36 runs finished" in text and "`s/facts.jsonl: line 25`: not a readable JSON file" in text


def test_nothing_to_report_is_one_line(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{")
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and "run.json" in error
    assert not (tmp_path / "out").exists()


def test_experiments_are_compared_once_each(tmp_path):
    for algo, level in (("mt_oryx", 0.6), ("mt_bc_sable", 0.4)):
        for seed in range(3):
            scores = {"a/y": level + 0.01 * seed, "a/z": level}
            write_run(tmp_path / f"{algo}/{seed}", {"a/x": 0.9}, scores, seed=seed, algo=algo, last=0.5)
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    pairs = [c for e in results["experiments"] for c in e["comparisons"]]
    assert len(pairs) == 1 and pairs[0]["improvement"] == 0.0
    assert pairs[0]["gain"] == pytest.approx(0.405 / 0.605 - 1, abs=1e-5)
    last = results["experiments"][0]["scores"]["last"]["test"]["mean"]
    assert last == pytest.approx(0.5 * results["experiments"][0]["scores"]["best"]["test"]["mean"], abs=1e-5)


def test_runs_are_divided_by_one_reference(tmp_path):
    """Two machines, two references of one task: equal returns must give equal scores."""
    old = {"a/x": {"reference": 0.8}, "a/y": {"reference": 0.8}}
    new = {**old, "a/y": {"reference": 0.4}}
    write_run(tmp_path / "old", {"a/x": 1.0}, {"a/y": 0.5}, references=old)
    write_run(
        tmp_path / "new", {"a/x": 1.0}, {"a/y": 0.5}, seed=1, references=new, started="2026-02-01T00:00:00"
    )
    found = facts.load([tmp_path])
    assert [r.normalised("a/y", "best") for r in found.runs] == pytest.approx([1.0, 1.0])
    assert len(found.remarks) == 1 and "a/y (0.4, 0.8)" in found.remarks[0]


def test_tasks_without_a_reference_are_left_out_of_scores(tmp_path):
    write_run(tmp_path, {"a/x": 1.0}, {"a/y": 0.5, "a/z": 9.0}, references={"a/x": {"reference": 0.8},
              "a/y": {"reference": 0.8}})  # fmt: skip
    (run,) = facts.load([tmp_path]).runs
    assert measure.group([run], "best")["test"]["mean"] == pytest.approx(0.5)
    assert runs.without_reference([run]) == ["a/z"]


def test_selection_on_test_tasks_is_said(tmp_path):
    write_run(tmp_path, {"a/x": 1.0}, {"a/y": 0.5}, select_on="test")
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "chose their best checkpoint on the test tasks" in (tmp_path / "out/report.md").read_text()


def test_collection_figures(tmp_path):
    write_collection(tmp_path / "a", "lbf/one")
    write_collection(tmp_path / "b", "lbf/two", evaluations=3)
    whole, going = (measure.collection(r) for r in facts.load([tmp_path]).runs)
    assert whole is not None and going is not None
    assert whole["env_steps"] == 24000 and whole["minutes"] == pytest.approx(0.4)
    assert whole["steps_per_second"] == pytest.approx(1000)
    assert (whole["final"], whole["best"], whole["best_at"]) == (0.85, 0.9, 12000)
    assert whole["greedy"] == pytest.approx(0.425) and whole["untrained"] == 0.05
    table = run_tables.collection([whole, going], "sampled")
    assert table.rows[0][3] == "5" and table.rows[1][3] == "3 (of 5)"


def test_a_collection_that_goes_on_from_another_run_shows_no_untrained_play(tmp_path):
    write_collection(tmp_path, "lbf/one")
    record = json.loads((tmp_path / "run.json").read_text())
    record["config"]["init_from"] = "runs/other"
    (tmp_path / "run.json").write_text(json.dumps(record))
    (run,) = facts.load([tmp_path]).runs
    numbers = measure.collection(run)
    assert numbers is not None and numbers["untrained"] is None


def test_collections_outlive_their_directories_in_a_report(tmp_path):
    write_collection(tmp_path / "runs/a", "lbf/one")
    write_collection(tmp_path / "runs/b", "lbf/two", seed=1, evaluations=3)
    later = tmp_path / "runs/b/run.json"
    later.write_text(later.read_text().replace('"init_from": null', '"init_from": "runs/a"'))
    first, second = tmp_path / "first", tmp_path / "second"
    assert report.main([str(tmp_path / "runs"), "--out", str(first)]) == 0
    shutil.rmtree(tmp_path / "runs")
    write_collection(tmp_path / "runs/c", "lbf/three")
    assert report.main([str(first / "facts.jsonl"), str(tmp_path / "runs"), "--out", str(second)]) == 0
    before, after = (json.loads((at / "results.json").read_text())["collection"] for at in (first, second))
    assert [c["task"] for c in after] == ["lbf/one", "lbf/three", "lbf/two"]
    assert [c for c in after if c["task"] != "lbf/three"] == before
    assert before[1]["untrained"] is None and before[0]["untrained"] == 0.05
    assert (first / "collection.png").read_bytes() != (second / "collection.png").read_bytes()

    # The earliest reports kept no evaluations of them, but what came of them.
    value = earlier_results(first)
    for own in value["collection"]:
        del own["run"]["evaluations"]
    write_json(tmp_path / "earlier.json", value)
    third = tmp_path / "third"
    assert report.main([str(tmp_path / "earlier.json"), "--out", str(third)]) == 0
    assert results_in(third)["collection"] == before and not (third / "collection.png").exists()
    fourth = tmp_path / "fourth"
    assert report.main([str(third / "facts.jsonl"), "--out", str(fourth)]) == 0
    assert (fourth / "report.md").read_text() == (third / "report.md").read_text()


def test_json_has_no_numbers_that_json_lacks():
    values = {"a": float("nan"), "b": [np.float64(1 / 3), np.inf], "c": (np.int64(3), True, None)}
    assert json.loads(json.dumps(facts.finite(values))) == {
        "a": None,
        "b": [0.333333, None],
        "c": [3, True, None],
    }


def test_markdown_tables_keep_their_columns():
    table = document.Table("t", ("a|b", "c"), (("x | y", "1"),), note="n")
    assert table.markdown().splitlines()[2:5] == [r"| a\|b | c |", "|---|---:|", r"| x \| y | 1 |"]


def test_references_of_a_vault_directory_go_first(tmp_path, capsys):
    run = write_run(tmp_path / "run", {"lbf/a": 0.8}, {"lbf/b": 0.5})
    vaults = tmp_path / "vaults"
    assert report.main([str(run), "--references", str(vaults)]) == 2
    assert "references/<family>/<scenario>.json" in capsys.readouterr().err

    write_json(vaults / "references/lbf/b.json", {"reference": REFERENCE / 2, "random": 0.0})
    assert report.main([str(run), "--references", str(vaults)]) == 0
    results = json.loads((run / "report" / "results.json").read_text())
    scores = results["experiments"][0]["scores"]["best"]
    assert scores["test"]["mean"] == pytest.approx(1.0), "half the reference, twice the score"
    assert scores["train"]["mean"] == pytest.approx(0.8), "a task that is not listed keeps its own"
    loaded = facts.load([run], vaults).runs[0]
    assert loaded.score_curve("test")[1][-1] == pytest.approx(1.0, rel=1e-3), "and so do learning curves"
    assert loaded.score_curve("train")[1][-1] == pytest.approx(0.8, rel=1e-3)
