"""Refuses stored results that do not compare: `python experiment_scripts/audit.py`, or `make audit`, in seconds.

Prints each refusal in one line and exits with 1 where there are any; see mtmarl/analysis/audit.py for the rules.
"""

from pathlib import Path

from mtmarl.analysis import audit
from mtmarl.errors import exit_with

ROOT = Path(__file__).parents[1]


def main() -> int:
    docs = sorted((ROOT / "docs").glob("*.md"))
    found = audit.refusals(ROOT / "results", {ROOT / "README.md": True, **dict.fromkeys(docs, False)})
    print("\n".join(found or ["results and headlines compare"]))
    return 1 if found else 0


if __name__ == "__main__":
    exit_with(main)
