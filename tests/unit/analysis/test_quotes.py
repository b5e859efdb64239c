"""README and docs quote the stored facts as they are."""

from pathlib import Path

import pytest

from mtmarl.analysis import quotes
from mtmarl.errors import UserError
from mtmarl.report import write_report

from .run_directories import write_sweep

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_stored_results_say(page):
    text = page.read_text(encoding="utf-8")
    assert quotes.fill(text, ROOT / "results") == text, "run experiment_scripts/quote_results.py"
    assert text.count("<!-- results: ") == text.count("<!-- end -->") == len(quotes.MARK.findall(text))


@pytest.mark.parametrize("folder", sorted((ROOT / "results").iterdir()), ids=lambda folder: folder.name)
def test_reports_show_only_figures_that_are_there(folder):
    shown = [line.split("](")[-1].rstrip(")") for line in _lines(folder) if line.startswith("![")]
    assert all((folder / name).is_file() for name in shown)


def _lines(folder):
    return (folder / "report.md").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Seeds score 0.7, 0.8, 0.9 against 0.39, 0.4, 0.41: a mean of 0.8 ± 4.303 · 0.1 / √3."""
    root = tmp_path_factory.mktemp("quoted")
    scores = {"a": (0.7, 0.8, 0.9), "b": (0.39, 0.4, 0.41), "c": (0.1, 0.4, 0.7)}
    score = lambda cell, seed: ({"lbf/x": 0.5}, {"lbf/y": scores[cell["variant"]][seed]})
    claims = [
        {"claim": "c", "of": {"variant": v}, "over": {"variant": "b"}, "split": "test", "gain": 0.5}
        for v in ("a", "c")
    ]
    write_sweep(root / "runs", {"variant": list(scores)}, score, paper=claims)
    write_report([root / "runs"], root / "results" / "example")
    return root / "results"


@pytest.mark.parametrize(
    "key, text",
    [
        ("example score test a", "0.800 [0.552, 1.048]"),
        ("example score train a", "0.500 [0.500, 0.500]"),
        ("example gain 1", "+100.0% [+39.5%, +157.5%]"),
        ("example gain a over b", "+100.0% [+39.5%, +157.5%]"),
        ("example claim 1", " +100.0% [+39.5%, +157.5%] | ±77% | *holds* "),
        (
            "example compare a over b published 4",
            " +100.0% [+39.5%, +157.5%] | ±77% | *holds*: smaller than published ",
        ),
        ("example compare a over b", " +100.0% [+39.5%, +157.5%] | ±77% | *higher* "),
    ],
)
def test_what_a_key_stands_for(results, key, text):
    assert quotes.quote(key, results) == text
    page = f"| x |<!-- results: {key} -->old\ntext<!-- end --> y |"
    assert quotes.fill(page, results) == f"| x |<!-- results: {key} -->{text}<!-- end --> y |"


def test_a_wide_interval_decides_nothing(results):
    assert quotes.quote("example claim 2", results).endswith("| *not decided at this n* ")
    assert quotes.quote("example compare b over c", results).endswith("| *not decided at this n* ")


@pytest.mark.parametrize(
    "key",
    [
        "example",
        "example score test d",
        "none score test a",
        "example gain 3",
        "example gain a over d",
        "example x 1",
    ],
)
def test_a_key_of_nothing_is_one_line(results, key):
    with pytest.raises(UserError, match=key):
        quotes.fill(f"<!-- results: {key} --><!-- end -->", results)
