"""How actions were chosen when a run was scored, from what its run.json records."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtmarl.analysis.runs import Run
from mtmarl.analysis.sweeps import title

GREEDY = "greedy"
SAMPLED = "sampled from the policy"

Settings = Mapping[str, Any]


def _by_policy(settings: Settings, explore: float) -> str:
    return _partly(SAMPLED, explore)


def _by_values(settings: Settings, explore: float) -> str:
    temperature = settings.get("acting_temperature", 0.0)
    way = f"sampled from a softmax over values at temperature {temperature:g}"
    return _partly(way, explore if temperature else 0.0)


def _greedily(settings: Settings, explore: float) -> str:
    return GREEDY


def _nearly_greedily(settings: Settings, explore: float) -> str:
    """A share `explore * final_epsilon` is random."""
    if not explore:
        return GREEDY
    known = settings.get("final_epsilon")
    return "epsilon-greedy" + ("" if known is None else f" with epsilon {explore * known:g}")


def _partly(way: str, share: float) -> str:
    if share in (0.0, 1.0):
        return way if share else GREEDY
    return f"{way} with probability {share:g}, else {GREEDY}"


# What `evaluator.explore` means to the algorithms that have no policy to sample from.
WITHOUT_POLICY: dict[str, Callable[[Settings, float], str]] = {
    "updet_m": _greedily,
    "updet_l": _greedily,
    "qmix": _nearly_greedily,
    "hygen": _nearly_greedily,
    "mt_cql_sable": _by_values,
}


def chosen(run: Run) -> str:
    """The words that follow "actions are"."""
    config, algo = run.record.get("config") or {}, str(run.record["algo"])
    # Records from before this could be chosen lack it. Collection scores with 1, and greedily beside that.
    asked = 1.0 if run.kind == "collect" else (config.get("evaluator") or {}).get("explore", 1.0)
    explore = float(asked)
    return WITHOUT_POLICY.get(algo, _by_policy)(config.get("algo") or {}, explore)


def described(runs: Sequence[Run]) -> str:
    """The same of several runs: whose are chosen how, where they differ, and on which tasks one's own differ."""
    ways: dict[str, dict[str, dict[str, None]]] = {}
    for run in runs:
        algo, tasks = str(run.record["algo"]), str(run.record["tasks"])
        ways.setdefault(chosen(run), {}).setdefault(algo, {})[tasks] = None
    if len(ways) == 1:
        return next(iter(ways))
    several = lambda algo: sum(algo in of for of in ways.values()) > 1
    name = lambda algo, tasks: title(algo) + (f" on {', '.join(tasks)}" if several(algo) else "")
    return "; ".join(f"{way} ({', '.join(name(a, t) for a, t in of.items())})" for way, of in ways.items())
