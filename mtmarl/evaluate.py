"""`python -m mtmarl.evaluate run=runs/… +tasks=lbf_5`: zero-shot scores of a saved policy on any task that fits."""

import json
import math
import sys

from mtmarl import config, terminal
from mtmarl.errors import UserError, exit_with, failed


def main(argv: list[str] | None = None) -> int:
    try:
        run(config.compose(sys.argv[1:] if argv is None else argv, "evaluate"))
    except (UserError, OSError) as error:
        return failed(error)
    return 0


def run(cfg: config.Config) -> None:
    """Prints one line per task, acting as when the run was scored, and greedily; a JSON line at the end."""
    from mtmarl import build
    from mtmarl.runs import policy as policies
    from mtmarl.runs.identity import train_tasks
    from mtmarl.training import sharding

    sharding.start()
    assert cfg.run is not None
    policy = policies.load_policy(cfg.run, cfg.which)
    tasks = list(dict.fromkeys((*train_tasks(cfg), *cfg.tasks.test))) or [
        *train_tasks(policy.config),
        *policy.config.tasks.test,
    ]
    references = {**build.known_references(cfg, tasks), **policy.references}
    episodes = cfg.evaluator.final_episodes
    explore = policy.config.evaluator.explore
    evaluator = policies.make_evaluator(policy, tasks, episodes, cfg.seed)
    scored, greedy = (evaluator.evaluate(policy.params, 0, episodes, share) for share in (explore, 0.0))
    width = max(map(len, tasks))
    record = {}
    for task in tasks:
        error = scored[task].standard_error
        spec = evaluator.envs[task].spec
        won = scored[task].win_rate(spec)
        normalised = scored[task].normalised(spec, references.get(task, {}).get("reference"))
        record[task] = {
            "return": scored[task].mean,
            "standard_error": None if math.isnan(error) else error,
            "greedy_return": greedy[task].mean,
            "normalised": normalised,
            "win_rate": won,
        }
        line = f"{task:<{width}}  return {scored[task].mean:.3f} ± {error:.3f}"
        line += f"  greedy {greedy[task].mean:.3f}"
        line += "" if normalised is None or won is not None else f"  normalised {normalised:.3f}"
        terminal.say(line + ("" if won is None else f"  won {won:.1%}"))
    about = {"run": cfg.run, "which": cfg.which, "episodes": episodes, "explore": explore}
    terminal.say(json.dumps({**about, "tasks": record}))


if __name__ == "__main__":
    exit_with(main)
