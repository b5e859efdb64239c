"""A sweep from its file to its report: two cells of real training, one of which cannot work."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtmarl import sweep
from tests.processes import alive, children_of

ROOT = Path(__file__).parents[2]
TEXT = """
title: "Context"
base: [+algo=mt_bc_sable, +tasks=micro, algo.network.embed_dim=16, algo.network.heads=2]
axes:
  context: trainer.context=5,100000
  share: {half: data.fraction=0.5}
x: context
seeds: [0]
profiles:
  cpu:
    overrides:
      - trainer.updates=4
      - trainer.chunk=2
      - trainer.checkpoint_every=4
      - trainer.batch_size=8
      - evaluator.every=4
      - evaluator.episodes=4
      - evaluator.final_episodes=4
paper:
  - {claim: "longer is better", of: {context: 100000}, over: {context: 5}, split: test}
"""


def test_a_sweep_from_its_file_to_its_report(micro_vaults, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    out, file = tmp_path / "out", tmp_path / "context.yaml"
    file.write_text(TEXT)
    argv = [f"+sweep={file}", f"out={out}", "jobs=2", f"data.vault_dir={micro_vaults}"]

    assert sweep.main([*argv, "--dry-run"]) == 0
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 3 and printed[1].startswith(
        "python -m mtmarl.train +algo=mt_bc_sable +tasks=micro"
    )
    assert not out.exists()

    assert sweep.main(argv) == 1
    printed, errors = capfd.readouterr()
    assert re.search(r"finished  context=5/share=half/seed_0, \d+\.\d min, held-out -?\d", printed)
    assert "failed: context=100000/share=half/seed_0: error: " in errors
    assert "fewer than trainer.context=100000; lower that or collect more" in errors
    record = json.loads((out / "sweep.json").read_text())
    final = out / record["runs"][0]["dir"] / "final.json"
    before = final.stat().st_mtime_ns
    assert (out / "report" / "report.md").exists()
    whole = json.loads((final.parent / "run.json").read_text())
    assert whole["config"]["data"]["fraction"] == 0.5

    assert sweep.main([*argv, "trainer.updates=8"]) == 2
    assert "holds this sweep with other settings" in capfd.readouterr().err
    assert sweep.main(argv) == 1
    assert "2 runs, 1 of them finished" in capfd.readouterr().out
    assert final.stat().st_mtime_ns == before

    elsewhere = [a for a in argv if not a.startswith("out=")] + [f"out={tmp_path / 'elsewhere'}"]
    assert sweep.main([*elsewhere, f"results={out / 'facts.jsonl'}"]) == 1
    assert "2 runs, 1 of them finished" in capfd.readouterr().out
    assert not (tmp_path / "elsewhere" / record["runs"][0]["dir"]).exists()
    assert "1 of 2 runs finished" in (tmp_path / "elsewhere" / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_killed_sweep_goes_on(micro_vaults, tmp_path):
    """Killed within its second run: the first is not made again, the second goes on from its checkpoint."""
    file, out = tmp_path / "seeds.yaml", tmp_path / "out"
    text, _, _ = TEXT.partition("paper:")
    file.write_text(text.replace("=5,100000", "=5").replace("seeds: [0]", "seeds: [0, 1]"))
    command = [
        sys.executable, "-m", "mtmarl.sweep", f"+sweep={file}", f"out={out}", f"data.vault_dir={micro_vaults}",
        "trainer.updates=100",
    ]  # fmt: skip
    cell = out / "context=5" / "share=half"
    first, second = cell / "seed_0" / "final.json", cell / "seed_1" / "final.json"
    saved = lambda: any(entry.name.isdigit() for entry in second.parent.glob("checkpoints/*"))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None and not saved():
            time.sleep(0.01)
        children = children_of(running.pid)
        running.kill()
        for child in children:
            os.kill(child, signal.SIGKILL)
    assert first.exists() and saved() and not second.exists()
    before = first.stat().st_mtime_ns
    while any(map(alive, children)):
        time.sleep(0.01)

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs, 1 of them finished" in done.stdout
    assert first.stat().st_mtime_ns == before
    assert "goes on from update" in (second.parent / "log.txt").read_text()
    rows = [json.loads(line) for line in (second.parent / "metrics.jsonl").read_text().splitlines()]
    trained = [row["step"] for row in rows if any("loss" in name for name in row)]
    assert trained == sorted(set(trained)) and trained[-1] == 100


def _printed_by(command, folder, **variables):
    """What a command says that must succeed."""
    done = subprocess.run(
        command,
        cwd=folder, env={**os.environ, "PYTHON": sys.executable, **variables}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_make_sweep(tmp_path):
    """With the interpreter of these tests, whether or not `make setup` made it."""
    make = ["make", "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "sweep"]
    _printed_by([*make, "PROFILE=smoke", f"ARGS=out={tmp_path / 'out'}"], ROOT)
    assert "1 of 1 runs finished" in (tmp_path / "out" / "report" / "report.md").read_text()


ARGUMENTS = {
    "training_tasks": ("lbf", "connector", "rware"),
    "skills": ("smax", "jumanji"),
    "m3": ("pretrain", "easy", "mixed", "connector", "held_out"),
}
TINY = (
    "collect.env_steps=64", "collect.num_envs=4", "collect.rollout_length=4", "collect.evaluations=2",
    "collect.eval_episodes=2", "collect.record_points=2", "collect.record_episodes=2", "evaluator.final_episodes=4",
)  # fmt: skip
BEFORE = {"held_out": "pretrain"}  # whose policies it starts from
COMMANDS = [
    [str(script), *argument]
    for script in sorted((ROOT / "experiment_scripts").glob("*.sh"))
    if "mtmarl.sweep" in script.read_text()
    for argument in ([[a] for a in ARGUMENTS[script.stem]] if script.stem in ARGUMENTS else [[]])
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join([Path(c[0]).stem, *c[1:]]))
def test_every_script_runs(command, tmp_path):
    """In a folder of its own: a sweep takes finished runs from those beside it, and some start from their policies."""
    first = [[command[0], BEFORE[name]] for name in command[1:] if name in BEFORE]
    for each in [*first, command]:
        _printed_by([*each, "profile=smoke"], tmp_path)
    reports = [file.read_text() for file in tmp_path.glob("runs/sweeps/*/report/report.md")]
    assert len(reports) == len(first) + 1
    assert all(re.search(r"\b(\d+) of \1 runs finished", text) for text in reports)


COLLECT = ROOT / "experiment_scripts" / "collect.sh"


@pytest.mark.slow
@pytest.mark.parametrize("tasks", ["lbf_5", "connector_10", "rware_15", "marine_hard", "m3"])
def test_every_collection_runs(tasks, tmp_path):
    """One vault from scratch and, where the set has such, one that starts from it and one reference; once."""
    if tasks in ("marine_hard", "m3"):
        pytest.importorskip("jaxmarl")
    printed = _printed_by([str(COLLECT), tasks, "profile=smoke"], tmp_path)
    assert printed.count("[1/1]") >= 2 and "already collected" not in printed
    vaults = tmp_path / "runs/smoke/vaults"
    references = list(vaults.glob("references/*/*.json"))
    assert len(references) == printed.count("[1/1]") > 0
    assert 1 <= len(list(vaults.glob("*/*.vlt"))) <= len(references)
    assert (tmp_path / "runs/smoke/collect" / tasks / "report/report.md").exists()
    again = _printed_by([str(COLLECT), tasks, "profile=smoke"], tmp_path)
    assert again.count("already collected") == len(references)


@pytest.mark.slow
def test_a_collection_in_little_time_goes_on(tmp_path):
    """What was packed when the time was up is taken out again."""
    script, out = ROOT / "experiment_scripts" / "collect_in_time.sh", tmp_path / "out"
    command = [str(script), str(out), "lbf/6x6-2p-1f-t10", "--", *TINY]
    printed = _printed_by(command, tmp_path)
    assert "lbf/6x6-2p-1f-t10: finished" in printed
    assert list(out.glob("state.tar.part-*")) and not (out / "work").exists()
    again = _printed_by(command, tmp_path, KEEP_WORK="1")
    assert "lbf/6x6-2p-1f-t10: finished" in again
    assert "already collected" in (out / "work/lbf_6x6-2p-1f-t10.log").read_text()


@pytest.mark.slow
def test_make_vaults(tmp_path):
    make = ["make", "-o", ".venv/.installed", f"BIN={Path(sys.executable).parent}", "vaults", "TASKS=micro"]
    own = f"run_dir={tmp_path / 'runs'} data.vault_dir={tmp_path / 'vaults'}"
    _printed_by([*make, f"ARGS={' '.join(TINY)} {own}"], ROOT)
    assert list(tmp_path.glob("vaults/*/*.vlt"))
