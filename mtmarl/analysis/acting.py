"""How actions were chosen when a run was scored, from what its run.json records."""

from collections.abc import Sequence

from mtmarl.acting import Words, by_policy, by_values, greedily, nearly_greedily
from mtmarl.analysis.runs import Run
from mtmarl.analysis.sweeps import title

# Algorithms without a policy to sample from, for records of before the words themselves were recorded.
WITHOUT_POLICY: dict[str, Words] = {
    "updet_m": greedily,
    "updet_l": greedily,
    "qmix": nearly_greedily,
    "hygen": nearly_greedily,
    "mt_cql_sable": by_values,
}


def chosen(run: Run) -> str:
    """The words that follow "actions are"."""
    if run.record.get("acting"):
        return str(run.record["acting"])
    config, algo = run.record.get("config") or {}, str(run.record["algo"])
    # Records from before this could be chosen lack it. Collection scores with 1, and greedily beside that.
    asked = 1.0 if run.kind == "collect" else (config.get("evaluator") or {}).get("explore", 1.0)
    explore = float(asked)
    return WITHOUT_POLICY.get(algo, by_policy)(config.get("algo") or {}, explore)


def described(runs: Sequence[Run]) -> str:
    """The same of several runs: whose are chosen how, where they differ, and on which tasks one's own differ."""
    ways: dict[str, dict[str, dict[str, None]]] = {}
    titles = {
        algo: str(r.record.get("title") or title(algo)) for r in runs for algo in [str(r.record["algo"])]
    }
    for run in runs:
        algo, tasks = str(run.record["algo"]), str(run.record["tasks"])
        ways.setdefault(chosen(run), {}).setdefault(algo, {})[tasks] = None
    if len(ways) == 1:
        return next(iter(ways))
    several = lambda algo: sum(algo in of for of in ways.values()) > 1
    name = lambda algo, tasks: titles[algo] + (f" on {', '.join(tasks)}" if several(algo) else "")
    return "; ".join(f"{way} ({', '.join(name(a, t) for a, t in of.items())})" for way, of in ways.items())
