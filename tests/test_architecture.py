"""Imports point one way; the contracts are in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_import_contracts_hold():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_config_and_sinks_do_not_import_jax():
    code = "import sys, mtmarl.config, mtmarl.sinks; assert 'jax' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("command", "word"),
    [
        *((name, "--help") for name in ("train", "collect", "evaluate", "sweep", "report", "vault")),
        ("vault", "ls"),
    ],
)
def test_help_and_listings_load_nothing_slow(command, word):
    code = (
        f"import runpy, sys; sys.argv = ['mtmarl', '{word}']\n"
        f"try:\n    runpy.run_module('mtmarl.{command}', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "slow = {'jax', 'flax', 'orbax', 'hydra', 'omegaconf', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow and len(sys.modules) < 500, (slow, len(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
