"""Run and sweep directories as mtmarl.train, mtmarl.collect and mtmarl.sweep write them, with made-up scores."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE, RANDOM = 0.8, 0.05


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_run(
    directory: Path,
    train: Mapping[str, float],
    test: Mapping[str, float],
    seed: int = 0,
    finished: bool = True,
    episodes: int = 4,
    started: str = "2026-01-01T00:00:00",
    last: float = 1.0,
    updates: int = 1000,
    **more: Any,
) -> Path:
    """A run of mtmarl.train; `train` and `test`: {task: normalised score of the best checkpoint}.

    The last checkpoint scores `last` times as much. Learning curves rise to the score and stay there.
    """
    tasks = {**train, **test}
    record = {
        "kind": "train",
        "algo": "mt_oryx",
        "tasks": "lbf_5",
        "train_tasks": list(train),
        "test_tasks": list(test),
        "seed": seed,
        "config": {"seed": seed},
        "select_on": "train",
        "hardware": "1 × cpu, 2 cores",
        "versions": {"mtmarl": "0.1.0", "jax": "0.10.2"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "started": started,
        "parameters": 116_000,
        "updates": updates,
        "minutes": 12.5 if finished else 0.0,
        "references": {t: {"reference": REFERENCE, "random": RANDOM, "algorithm": "sable"} for t in tasks},
        **more,
    }
    write_json(directory / "run.json", record)
    rows = []
    for step in np.linspace(0, updates, 11)[: None if finished else 6]:
        share = 1 - 0.9 * np.exp(-8 * step / updates)
        row: dict[str, Any] = {"step": int(step)}
        row |= {f"eval/{task}/return": share * value * REFERENCE for task, value in tasks.items()}
        rows += [row, {"step": int(step), "oryx/critic_loss": 2 * float(np.exp(-step / updates))}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    if finished:
        entry = lambda task, scale: {
            "return": [scale * tasks[task] * REFERENCE] * episodes,
            "length": [50] * episodes,
            "normalised": scale * tasks[task],
            "split": "train" if task in train else "test",
            "greedy_return": None,
        }
        final = {
            which: {"step": updates, "tasks": {t: entry(t, scale) for t in tasks}}
            for which, scale in (("best", 1.0), ("last", last))
        }
        write_json(directory / "final.json", final)
    return directory


Score = Callable[[Mapping[str, str], int], tuple[Mapping[str, float], Mapping[str, float]] | None]


def write_sweep(
    root: Path,
    axes: Mapping[str, Sequence[str]],
    score: Score,
    seeds: Sequence[int] = (0, 1, 2),
    paper: Sequence[Mapping[str, Any]] = (),
    unfinished: Sequence[tuple[Mapping[str, str], int]] = (),
    **more: Any,
) -> Path:
    """A sweep over the product of the axes. `score` gives ({train task: score}, {test task: score}), or None for a
    run that was never started; `unfinished` lists (cell, seed) that were cut short."""
    runs = []
    for seed, levels in itertools.product(seeds, itertools.product(*axes.values())):
        cell = dict(zip(axes, levels, strict=True))
        place = "/".join([*(f"{a}={v}" for a, v in cell.items()), f"seed_{seed}"])
        argv = [
            f"+algo={cell.get('algo', 'mt_oryx')}",
            "+tasks=lbf_5",
            f"seed={seed}",
            f"run_dir=runs/s/{place}",
        ]
        runs.append({"dir": place, "cell": cell, "seed": seed, "argv": argv})
        scored = score(cell, seed)
        if scored is not None:
            write_run(root / place, *scored, seed=seed, finished=(cell, seed) not in unfinished)
    record = {
        "kind": "sweep",
        "name": "example",
        "profile": "cpu",
        "title": "An example",
        "x": None,
        "panel": None,
        "line": None,
        "axes": {a: list(v) for a, v in axes.items()},
        "runs": runs,
        "paper": list(paper),
        **more,
    }
    write_json(root / "sweep.json", record)
    return root


def write_collection(
    directory: Path, task: str, seed: int = 0, evaluations: int = 5, planned: int = 4
) -> Path:
    """A run of mtmarl.collect that has made some of its planned + 1 evaluations, 6000 env steps and 0.1 min apart."""
    write_json(
        directory / "run.json",
        {
            "kind": "collect",
            "algo": "sable",
            "tasks": task.replace("/", "-"),
            "train_tasks": [task],
            "test_tasks": [],
            "seed": seed,
            "config": {"collect": {"env_steps": 24000, "evaluations": planned}, "init_from": None},
            "hardware": "1 × cpu, 2 cores",
            "versions": {"mtmarl": "0.1.0", "jax": "0.10.2"},
            "commit": None,
            "started": "2026-01-01T00:00:00",
            "parameters": 98251,
        },
    )
    returns = [0.05, 0.4, 0.9, 0.8, 0.85][:evaluations]
    lines = [
        {
            "step": 6000 * i,
            f"eval/{task}/return": value,
            f"eval/{task}/greedy_return": 0.5 * value,
            f"eval/{task}/length": 40.0,
            "minutes": 0.1 * i,
        }
        for i, value in enumerate(returns)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    return directory
