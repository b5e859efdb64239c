"""How commands end that are stopped."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import mtmarl
from mtmarl.errors import UserError, failed


@pytest.mark.parametrize("name, exit_code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_stop_is_one_line(name, exit_code):
    code = f"""
import os, signal, time
from mtmarl.errors import exit_with
signal.signal(signal.SIGINT, signal.default_int_handler)  # What runs in the background may ignore it.
def main():
    print("begun")
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
exit_with(main, "it goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("begun\n", "\nstopped; it goes on\n", exit_code)


@pytest.mark.parametrize("name", ["train", "collect", "evaluate", "report", "sweep", "vault"])
def test_every_command_can_be_stopped(name):
    text = (Path(mtmarl.__file__).parent / f"{name}.py").read_text()
    assert text.splitlines()[-1].startswith("    exit_with(main")


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `mtmarl.sweep … --dry-run | head`."""
    code = "from mtmarl.errors import exit_with; exit_with(lambda: [print('x' * 99) for _ in range(10**5)])"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("x")
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1


def test_a_closed_output_is_no_error_of_a_command_either():
    with pytest.raises(BrokenPipeError):
        failed(BrokenPipeError(errno.EPIPE, "Broken pipe"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to a device that is always full")
def test_output_to_a_full_disk_is_one_line():
    code = "from mtmarl.errors import exit_with; exit_with(lambda: print('x') or 0)"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "No space left" in done.stderr


@pytest.mark.parametrize(
    "error, line",
    [
        (
            OSError(errno.ENOSPC, "No space left", "a"),
            "a: No space left: make room, then give the same command again",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            "No space left: make room, then give the same command again",
        ),
        (PermissionError(errno.EACCES, "Denied", "a"), "a: Denied: give a place that you may read and write"),
        (OSError("5 requested and 3 written"), "5 requested and 3 written"),
        (
            UserError("https://me:secret@host/x?signature=1: gone\x1b[31m"),
            "https://…@host/x?…: gone\\x1b[31m",
        ),
    ],
)
def test_every_error_of_files_is_one_line(error, line, capsys):
    """… which shows neither credentials nor what a terminal would obey."""
    assert failed(error) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
