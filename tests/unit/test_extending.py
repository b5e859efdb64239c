"""The recipes of docs/extending.md, executed from the text of the page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Files that each recipe adds and changes.
TOUCHED = {
    "A new family of tasks": ({"walk.py", "pyproject.toml"}, set()),
    "A new algorithm": ({"mtmarl/algos/linear.py", "configs/algo/linear.yaml"}, {"mtmarl/algos/__init__.py"}),
    "A new network": ({"mtmarl/networks/two_layers.py"}, {"mtmarl/algos/linear.py"}),
    "A new task set": ({"configs/tasks/foraging_2.yaml"}, set()),
    "A new sink": ({"mtmarl/sinks/scores.py"}, {"mtmarl/sinks/__init__.py"}),
    "A new ablation flag": (set(), {"mtmarl/algos/linear.py", "configs/algo/linear.yaml"}),
}
CHECK = """
import jax, mtmarl
from pathlib import Path
from mtmarl import build, config
from mtmarl.algos import ALGOS
from mtmarl.sinks import open_sinks

def check():
    env = mtmarl.make_env("walk/3a")
    state, step = jax.eval_shape(env.reset, jax.random.key(0))
    assert step.obs.shape == (3, 2)
    cfg = config.compose(["+algo=linear", "+tasks=foraging_2", "algo.observe=false"], "train")
    assert cfg.tasks.test == ("lbf/9x9-3p-2f",) and cfg.algo["observe"] is False
    sinks = open_sinks(["scores"], Path("run"), {})
    sinks.log_evaluation(4, {"walk/3a": {"return": [1.0, 2.0]}})
    sinks.close()
    assert Path("run/scores.txt").read_text() == "4 walk/3a 1.5\\n"
    from mtmarl.types import example_batch
    spec = ALGOS["linear"]
    algo = spec.make(spec.Config(0.1, False), env.spec.dims)
    batch = example_batch(env.spec.dims)
    def learn():
        learner = algo.init(jax.random.key(0), batch)
        return algo.phases[0].update(learner, batch, jax.random.key(1))[0].params
    assert {x.shape for x in jax.tree.leaves(jax.eval_shape(learn))} == {(2, 32), (32,), (32, 3), (3,)}

check()
"""


def recipes():
    """{title: [(what to do, file, where, code)]} of the page."""
    page = (ROOT / "docs/extending.md").read_text()
    found = {}
    for section in page.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found[title] = [
            (how.strip(), file, at, code)
            for how, file, at, code in re.findall(
                r"^(|One line in |In )`([^`\n]+)`(?:, (?:after|in place of) `([^`\n]*)`)?\n\n```\w+\n(.*?)^```",
                text,
                re.M | re.S,
            )
        ]
    return found


def apply(recipe, root):
    """The files that were added and those that were changed."""
    added, changed = set(), set()
    for how, file, at, code in recipe:
        path = root / file
        if not how:
            assert not path.exists()
            path.write_text(code)
            added.add(file)
            continue
        lines = path.read_text().splitlines(keepends=True)
        (i,) = [i for i, line in enumerate(lines) if line.rstrip("\n") == at]
        path.write_text("".join([*lines[: i + (how == "One line in")], code, *lines[i + 1 :]]))
        changed.add(file)
    return added, changed


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the library with all recipes applied, and what each has touched."""
    root = tmp_path_factory.mktemp("extended")
    plugin = root / "plugin"
    plugin.mkdir()
    skip = shutil.ignore_patterns("__pycache__")
    for part in ("mtmarl", "configs", "tests"):
        shutil.copytree(ROOT / part, root / part, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", root)
    touched = {
        title: apply(recipe, plugin if title == "A new family of tasks" else root)
        for title, recipe in recipes().items()
    }
    # What an installer writes.
    about = plugin / "walk-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: walk\nVersion: 1.0\n")
    table = (plugin / "pyproject.toml").read_text().partition('[project.entry-points."mtmarl.families"]\n')[2]
    (about / "entry_points.txt").write_text("[mtmarl.families]\n" + table.replace('"', ""))
    return root, touched


def test_each_recipe_touches_the_files_that_it_names_and_no_more(extended):
    assert extended[1] == TOUCHED


def run(root, *command):
    paths = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'plugin')!r}]\n"
    return subprocess.run(
        [sys.executable, "-c", paths + command[0]], cwd=root, capture_output=True, text=True, check=False
    )


def test_what_the_recipes_make_works(extended):
    done = run(extended[0], CHECK)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_new_algorithm_passes_the_contract_tests(extended):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/contract/test_algos.py",
        "-k",
        "linear",
        "-q",
        "-n",
        "0",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=extended[0], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "9 passed" in done.stdout
