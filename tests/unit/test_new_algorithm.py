"""All that the library knows of an algorithm stands in its `SPEC`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_guessed_of_an_algorithm():
    guess = re.compile(r"(has|get)attr\(\s*(\w+\.)?(settings|module|spec|earlier)\b|inspect\.signature")
    assert not [f.name for f in (ROOT / "mtmarl").rglob("*.py") if guess.search(f.read_text())]
