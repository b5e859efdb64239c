"""Fills what README.md and docs/ quote from results/*/facts.jsonl anew: `python experiment_scripts/quote_results.py`.

See mtmarl/analysis/quotes.py for the marks.
"""

from pathlib import Path

from mtmarl.analysis import quotes
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.files import write_whole

ROOT = Path(__file__).parents[1]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    try:
        for page in pages():
            before = page.read_text(encoding="utf-8")
            after = quotes.fill(before, ROOT / "results")
            if after != before:
                write_whole(page, after)
                print(f"filled: {page.relative_to(ROOT)}")
    except (UserError, OSError) as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    exit_with(main)
