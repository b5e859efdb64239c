"""The console command, and what `import mtmarl` offers."""

import subprocess
import sys

import mtmarl


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "mtmarl", *words], capture_output=True, text=True, check=False
    )


def test_commands_are_those_of_the_modules():
    done = run("train", "--help")
    assert done.returncode == 0 and "python -m mtmarl.train" in done.stdout
    listed = run("--help")
    assert listed.returncode == 0 and "vault" in listed.stdout and run().stdout == listed.stdout


def test_an_unknown_command_is_one_line():
    done = run("trian")
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "error: trian: no such command; did you mean train?"
    ]


def test_every_public_name_is_there_and_none_is_loaded_by_the_import():
    assert sorted(mtmarl.__all__) == sorted({*mtmarl._LAZY, "__version__"})
    assert all(getattr(mtmarl, name) is not None for name in mtmarl.__all__)
    code = "import sys, mtmarl; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
