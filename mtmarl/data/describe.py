"""What a vault holds, in figures: for `mtmarl.vault describe`, for plots and for the card of a published data set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtmarl.data.vault import Episodes, Recording, Vault, episodes
from mtmarl.envs.registry import get_family

# An expert episode: its return covers this share of the way from random play to the reference policy.
EXPERT = 0.9
BINS = 20
POINTS = 10  # of the curve of coverage
_ROWS = 2**16


def joint_keys(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Per step a number for the joint observation, and one for it with the joint action: (S,), (S,) uint64.

    Equal things have equal numbers; different ones too, but for a chance far below one in a million per vault: they
    are sums modulo 2^64 with random odd weights, in constant memory.
    """
    steps = len(recording.first)
    obs = recording.obs.reshape(steps, -1)
    weights = (
        np.random.default_rng(0).integers(0, 2**63, obs.shape[1] + recording.action.shape[1], np.uint64) * 2
        + 1
    )
    state, pair = np.empty(steps, np.uint64), np.empty(steps, np.uint64)
    for at in range(0, steps, _ROWS):
        rows = slice(at, at + _ROWS)
        raw = obs[rows].view(np.uint32) if obs.dtype.kind == "f" else obs[rows]
        state[rows] = raw.astype(np.uint64) @ weights[: obs.shape[1]]
        pair[rows] = state[rows] + recording.action[rows].astype(np.uint64) @ weights[obs.shape[1] :]
    return state, pair


def describe(vault: Vault, reference: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Figures of one vault, ready for JSON. Returns are those of whole episodes.

    `reference`: the returns of the reference policy and of random play, `reference` and `random`; else those in the
    metadata. `coverage`: distinct pairs of joint observation and joint action per step, over the first steps; its end
    is the Joint-SACo of Formanek et al. 2024, "Putting data at the centre of offline MARL", with observations for
    states.
    """
    r, about = vault.recording, vault.metadata
    found = episodes(r, about["dims"]["horizon"])
    total, length = found.total[found.complete], found.length[found.complete]
    state, pair = joint_keys(r)
    first_seen = np.sort(np.unique(pair, return_index=True)[1])
    steps = len(r.first)
    points = np.unique(np.linspace(steps / POINTS, steps, POINTS).round().astype(int).clip(1))
    legal, taken = r.mask.sum((0, 1)), np.bincount(r.action.ravel(), minlength=r.mask.shape[2])
    out: dict[str, Any] = {
        "task": about["task"],
        "steps": steps,
        "episodes": {"whole": int(found.complete.sum()), "cut": int((~found.complete).sum())},
        "length": _moments(length),
        "return": _moments(total),
        "expert": _expert(total, reference or about.get("returns", {})),
        "actions": [{"taken": int(t), "legal": int(n)} for t, n in zip(taken, legal, strict=True)],
        "joint_observations": len(np.unique(state)),
        "joint_pairs": len(first_seen),
        "coverage": [[int(n), float(np.searchsorted(first_seen, n) / n)] for n in points],
        "policies": _by_policy(r, found),
        "megabytes": sum(x.nbytes for x in r) / 1e6,
        "dims": about["dims"],
        "obs_dtype": r.obs.dtype.name,
        "layout": observation_layout(about),
        "provenance": about.get("provenance", {}),
    }
    if len(total):
        counts, edges = np.histogram(total, BINS)
        out["histogram"] = {"counts": counts.tolist(), "edges": edges.tolist()}
    return out


def _moments(x: np.ndarray) -> dict[str, float]:
    if not len(x):
        return {}
    quartiles = np.quantile(x, (0.25, 0.5, 0.75))
    return {
        "mean": float(x.mean()), "std": float(x.std()), "min": float(x.min()), "max": float(x.max()),
        "q25": float(quartiles[0]), "median": float(quartiles[1]), "q75": float(quartiles[2]),
    }  # fmt: skip


def _expert(total: np.ndarray, figures: Mapping[str, Any]) -> dict[str, float] | None:
    """None where the reference policy is not known to beat random play."""
    reference, random = figures.get("reference"), figures.get("random")
    if reference is None or random is None or reference <= random or not len(total):
        return None
    threshold = random + EXPERT * (reference - random)
    share = float((total >= threshold).mean())
    return {"share": share, "threshold": threshold, "reference": reference, "random": random}


def _by_policy(recording: Recording, found: Episodes) -> list[dict[str, Any]]:
    """Mean return of whole episodes by the training step of the policy that played them, in at most 32 groups."""
    at, total = recording.policy_step[found.start][found.complete], found.total[found.complete]
    kinds = np.unique(at)
    groups = np.array_split(kinds, min(32, len(kinds))) if len(kinds) else []
    return [
        {"policy_step": int(g[-1]), "episodes": int(mine.sum()), "return": float(total[mine].mean())}
        for g in groups
        if (mine := (at >= g[0]) & (at <= g[-1])).any()
    ]


def observation_layout(about: Mapping[str, Any]) -> list[list[Any]]:
    """What each number of one agent's observation is: [[name, scale], …], from the metadata or the task's family."""
    scale = about["obs_scale"]
    names = about.get("observation_fields")
    if names is None:
        names = get_family(about["task"].partition("/")[0]).fields
    if len(names) != len(scale):
        names = [f"feature {i}, meaning not recorded" for i in range(len(scale))]
    return [[name, s] for name, s in zip(names, scale, strict=True)]


# ------------------------------------------------------------------------------------------------- as text


def _spread(of: Mapping[str, float]) -> str:
    if not of:
        return "no whole episode"
    return f"{of['mean']:.3f} ± {of['std']:.3f} (min {of['min']:.3f}, median {of['median']:.3f}, max {of['max']:.3f})"


def expert_text(of: Mapping[str, float] | None) -> str:
    if of is None:
        return "unknown, for want of a reference return"
    return (
        f"{100 * of['share']:.1f}% (return of {of['threshold']:.3f} or more: {100 * EXPERT:.0f}% of the way from "
        f"random play, {of['random']:.3f}, to the reference, {of['reference']:.3f})"
    )


def action_text(actions: Sequence[Mapping[str, int]]) -> str:
    """How often each action was taken where it was legal; those never taken are what training cannot know."""
    rates = [f"{a}: {of['taken'] / max(of['legal'], 1):.3f}" for a, of in enumerate(actions)]
    used = sum(of["taken"] > 0 for of in actions)
    return f"{used} of {len(actions)} actions taken; taken where legal: {', '.join(rates)}"


def histogram_lines(of: Mapping[str, Any], width: int = 40) -> list[str]:
    counts, edges = of["counts"], of["edges"]
    most = max(counts)
    return [
        f"{low:9.3f} … {high:9.3f} {n:>8d} {'█' * round(width * n / most)}"
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def text(name: str, figures: Mapping[str, Any]) -> list[str]:
    """The lines that `describe` prints."""
    dims, whole = figures["dims"], figures["episodes"]
    end = figures["coverage"][-1][1]
    lines = [
        name,
        f"  steps            {figures['steps']:,}; {figures['megabytes']:.1f} MB in memory",
        f"  episodes         {whole['whole']:,} whole, {whole['cut']:,} cut; length {_spread(figures['length'])}",
        f"  episode_return   {_spread(figures['return'])}",
        f"  expert episodes  {expert_text(figures['expert'])}",
        f"  actions          {action_text(figures['actions'])}",
        f"  joint coverage   {figures['joint_pairs']:,} distinct pairs of joint observation and joint action, "
        f"{end:.3f} per step; {figures['joint_observations']:,} distinct joint observations",
        f"  sizes            {dims['agents']} agents, observations {dims['obs']} ({figures['obs_dtype']}), "
        f"{dims['actions']} actions, horizon {dims['horizon']}",
        *(f"  {key:16s} {_flat(value)}" for key, value in figures["provenance"].items()),
    ]
    if figures.get("histogram"):
        lines += ["  returns of whole episodes", *(f"    {x}" for x in histogram_lines(figures["histogram"]))]
    return lines


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
