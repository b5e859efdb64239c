"""How well fitted Q evaluation ranks policies: its estimates beside true returns, where the truth can be played.

    python experiment_scripts/estimates.py RUN [RUN …] [--tasks lbf_5] [--out results/estimates]

Each policy is estimated from the vaults of the training tasks of `--tasks` and played on the same tasks, and on the
held-out ones. Facts are appended to OUT/facts.jsonl, one line a policy; what is there is not computed again. Then the
report: rank correlations (Spearman), per task and of means over tasks, and a figure. About two minutes a policy.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr


def facts_of(run: Path, which: str, tasks: str, episodes: int) -> dict:
    """Estimates and true returns of one policy."""
    import mtmarl
    from mtmarl.config import task_set
    from mtmarl.data import vault
    from mtmarl.estimate import estimate_policy

    policy, known = mtmarl.load_policy(run, which), task_set(tasks)
    paths = [vault.find_vault(t, "replay") for t in known.train]
    found = estimate_policy(policy, [vault.read_vault(p) for p in paths], episodes=episodes)
    played = mtmarl.evaluate_policy(policy, [*known.train, *known.test], episodes=320, seed=1)
    return {
        "run": f"{run.parent.parent.name}/{run.parent.name}/{run.name}",
        "which": which,
        "estimates": {task: e._asdict() for task, e in found.items()},
        "returns": {task: float(played[task].mean) for task in played},
        "train": list(known.train),
        "test": list(known.test),
    }


def report(facts: list[dict], out: Path) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train, test = facts[0]["train"], facts[0]["test"]
    estimate = np.asarray([[f["estimates"][t]["mean"] for t in train] for f in facts])
    truth = np.asarray([[f["returns"][t] for t in train] for f in facts])
    held_out = np.asarray([np.mean([f["returns"][t] for t in test]) for f in facts])
    rank = lambda x, y: float(spearmanr(x, y).statistic)
    lines = [
        f"{len(facts)} policies; estimates from recorded episodes beside returns of 320 played ones",
        "",
        "| task | rank correlation | mean error of an estimate |",
        "|---|---:|---:|",
        *(
            f"| {task} | {rank(estimate[:, i], truth[:, i]):.2f} | {np.abs(estimate - truth)[:, i].mean():.3f} |"
            for i, task in enumerate(train)
        ),
        f"| mean of training tasks | {rank(estimate.mean(1), truth.mean(1)):.2f} | "
        f"{np.abs(estimate.mean(1) - truth.mean(1)).mean():.3f} |",
        f"| mean of held-out tasks, by the estimate on training tasks | {rank(estimate.mean(1), held_out):.2f} | – |",
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), constrained_layout=True)
    for i, task in enumerate(train):
        axes[0].scatter(truth[:, i], estimate[:, i], s=18, label=task)
    low, high = min(truth.min(), estimate.min()), max(truth.max(), estimate.max())
    axes[0].plot([low, high], [low, high], color="grey", linewidth=0.8)
    axes[0].set(xlabel="return, 320 episodes", ylabel="estimated return", title="training tasks")
    axes[0].legend(fontsize=7)
    axes[1].scatter(held_out, estimate.mean(1), s=18, color="black")
    axes[1].set(
        xlabel="return on held-out tasks", ylabel="estimated return on training tasks", title="held-out tasks"
    )
    figure.savefig(out / "estimates.png", dpi=110)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="directories of training runs")
    parser.add_argument("--tasks", default="lbf_5")
    parser.add_argument("--episodes", type=int, default=400, help="recorded episodes of each task")
    parser.add_argument("--out", type=Path, default=Path("results/estimates"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "facts.jsonl"
    facts = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for run in args.runs:
        for which in ("best",):
            name = f"{run.parent.parent.name}/{run.parent.name}/{run.name}"
            if any((f["run"], f["which"]) == (name, which) for f in facts):
                continue
            facts.append(facts_of(run, which, args.tasks, args.episodes))
            with file.open("a") as to:
                to.write(json.dumps(facts[-1]) + "\n")
            print(f"{name}: done", file=sys.stderr, flush=True)
    if len(facts) < 2:
        print("at least two policies are needed", file=sys.stderr)
        return 2
    text = report(facts, args.out)
    (args.out / "report.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
