"""Commands print on outputs that are not UTF-8, and nothing that a terminal obeys."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mtmarl
from mtmarl import terminal

ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "utf-8")
PRINTING = """
import rich.console, sys
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.sinks.console import Console
def main():
    print("0 … 1 ± 2 █ データ \\udcff")
    sink = Console()
    sink.start(2)
    sink.log(2, {"loss": 1.0})
    sink.log_evaluation(2, {"lbf/ä…": {"return": [1.0], "length": [1], "normalised": None, "win_rate": None}}, True)
    sink.close()
    return failed(UserError("0 … 1 データ"))
exit_with(main)
"""


def run(encoding: str, *command: str, **more: str) -> subprocess.CompletedProcess:
    package = str(Path(mtmarl.__file__).parents[1])  # A script has its own folder in the path, not this one.
    environment = {**os.environ, "PYTHONPATH": package, "PYTHONIOENCODING": encoding, **more}
    return subprocess.run([sys.executable, *command], capture_output=True, env=environment, check=False)


@pytest.fixture
def printing(tmp_path) -> str:
    file = tmp_path / "printing.py"
    file.write_text(PRINTING, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_encoding_lacks_is_replaced(encoding, printing):
    done = run(encoding, printing)
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 2 and "Traceback" not in err
    assert "2 of 2 updates" in err and "final score" in err
    if encoding == "ascii":
        assert out == "0 ... 1 +- 2 # ??? ?\n"
        assert err.splitlines()[-1] == "error: 0 ... 1 ???"
    if encoding == "utf-8":
        assert out == "0 … 1 ± 2 █ データ ?\n"


def test_a_locale_without_utf8(printing):
    done = run("", printing, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["train", "collect", "evaluate", "report", "sweep", "vault"])
def test_help_of_every_command_is_plain_where_it_must_be(name):
    done = run("ascii", "-m", f"mtmarl.{name}", "--help")
    assert done.returncode == 0 and not done.stderr and b"usage" in done.stdout


def test_a_closed_output_is_no_error():
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m mtmarl.train --help >&-'], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_names_from_outside_are_no_terminal_codes(capsys):
    terminal.say("a\x1b[31mb\nc\r", "https://me:secret@host/x …", error=True)
    terminal.say("d\u202ee")
    out, err = capsys.readouterr()
    assert err == "a\\x1b[31mb\\nc\\r\nhttps://…@host/x …\n" and out == "d\\u202ee\n"


def test_all_lines_are_printed_by_one_function():
    package = Path(mtmarl.__file__).parent
    for file in sorted(set(package.rglob("*.py")) - {package / "terminal.py"}):
        names = [
            n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name) and n.id == "print"
        ]
        assert not names, f"{file}:{names[0].lineno}: print; call terminal.say"
