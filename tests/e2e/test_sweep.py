"""A sweep from its file to its report: two cells of real training, one of which cannot work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtmarl import sweep

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
    assert "failed: context=100000/share=half/seed_0: error: task 0 has" in errors
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
    assert sweep.main([*elsewhere, f"results={out / 'report' / 'results.json'}"]) == 1
    assert "2 runs, 1 of them finished" in capfd.readouterr().out
    assert not (tmp_path / "elsewhere" / record["runs"][0]["dir"]).exists()
    assert "1 of 2 runs finished" in (tmp_path / "elsewhere" / "report" / "report.md").read_text()


ARGUMENTS = {
    "training_tasks": ("lbf", "connector", "rware"),
    "skills": ("smax", "jumanji"),
    "m3": ("pretrain", "easy", "mixed", "connector", "held_out"),
}
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
        done = subprocess.run(
            [*each, "profile=smoke"],
            cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    reports = [file.read_text() for file in tmp_path.glob("runs/sweeps/*/report/report.md")]
    assert len(reports) == len(first) + 1
    assert all(re.search(r"\b(\d+) of \1 runs finished", text) for text in reports)
