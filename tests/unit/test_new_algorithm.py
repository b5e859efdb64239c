"""A new algorithm is a module, a YAML and one line: all that the library knows of it stands in its `SPEC`."""

import filecmp
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALGOS = Path("mtmarl/algos/__init__.py")
MODULE = '''"""A linear policy, cloned."""

from dataclasses import dataclass

import jax.numpy as jnp

from mtmarl.algos.base import Algorithm, Phase, Spec, adam, gradient_step, init_learner, no_carry
from mtmarl.algos.bc_t import cloning
from mtmarl.networks.entities import choose
from mtmarl.ranges import Positive


@dataclass(frozen=True)
class Config:
    learning_rate: Positive


def make(config, dims):
    tx = adam(config.learning_rate, 1.0)
    logits = lambda params, obs: obs.obs @ params["kernel"]

    def loss(params, target, batch, key):
        return cloning(logits(params, batch.observation), batch, dims)

    def init(key, batch):
        return init_learner({"kernel": jnp.zeros((dims.obs, dims.actions))}, {"toy": tx}, target=False)

    def act(params, carry, obs, key, sample_probability):
        return carry, choose(logits(params, obs), obs, key, sample_probability), {}

    return Algorithm(init, (Phase("train", 1.0, gradient_step("toy", loss, tx)),), act, no_carry)


SPEC = Spec(Config=Config, make=make, kind="offline", title="Toy", has_network=False, decentralised=True)
'''


def contents(root):
    return {
        f.relative_to(root): f
        for part in ("mtmarl", "configs")
        for f in (root / part).rglob("*")
        if f.is_file()
    }


def test_a_new_algorithm_is_a_module_a_yaml_and_one_line(tmp_path):
    skip = shutil.ignore_patterns("__pycache__")
    for part in ("mtmarl", "configs", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "mtmarl/algos/toy.py").write_text(MODULE)
    (tmp_path / "configs/algo/toy.yaml").write_text("learning_rate: 0.1\n")
    lines = (ROOT / ALGOS).read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("ALGOS")) + 1
    (tmp_path / ALGOS).write_text("".join([*lines[:at], '    "toy": _spec("toy"),\n', *lines[at:]]))

    before = {name: f for name, f in contents(ROOT).items() if "__pycache__" not in name.parts}
    after = {name: f for name, f in contents(tmp_path).items() if "__pycache__" not in name.parts}
    assert after.keys() - before.keys() == {Path("mtmarl/algos/toy.py"), Path("configs/algo/toy.yaml")}
    changed = [name for name in before if not filecmp.cmp(before[name], after[name], shallow=False)]
    assert changed == [ALGOS]
    assert len((tmp_path / ALGOS).read_text().splitlines()) == len(lines) + 1

    command = [sys.executable, "-m", "pytest", "tests/contract/test_algos.py", "-k", "toy", "-q", "-n", "0"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "9 passed" in done.stdout


def test_nothing_is_guessed_of_an_algorithm():
    guess = re.compile(r"(has|get)attr\(\s*(\w+\.)?(settings|module|spec|earlier)\b|inspect\.signature")
    assert not [f.name for f in (ROOT / "mtmarl").rglob("*.py") if guess.search(f.read_text())]
