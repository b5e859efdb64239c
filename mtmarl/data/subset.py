"""Parts of a vault, for studies of how much and how good data must be. Whole episodes are kept or left out."""

from typing import Any

import numpy as np

from mtmarl.data.vault import Recording, Vault, episodes
from mtmarl.errors import UserError


def subset(
    vault: Vault,
    *,
    steps: int | None = None,
    policy_steps: tuple[float | int, float | int] | None = None,
    returns: tuple[float | int, float | int] | None = None,
) -> Vault:
    """The episodes that meet all conditions, in their order, with what was chosen under `subset` in the metadata.

    policy_steps: of policies at these training steps, both ends included. returns: whole episodes between these
    quantiles of return, of those that the first condition left; (0.5, 1.0) is the better half. steps: then so many of
    what is left, spread evenly over the recording, that at most `steps` steps remain.
    """
    r, where = vault.recording, vault.path or vault.metadata["task"]
    found = episodes(r, vault.metadata["dims"]["horizon"])
    kept = np.ones(len(found.start), bool)
    if policy_steps is not None:
        at = r.policy_step[found.start]
        kept &= (at >= policy_steps[0]) & (at <= policy_steps[1])
        if not kept.any():
            raise UserError(
                f"{where}: no policy of steps {policy_steps[0]:g} … {policy_steps[1]:g}; it was recorded at "
                f"{r.policy_step.min()} … {r.policy_step.max()}"
            )
    if returns is not None:
        low, high = returns
        if not 0 <= low < high <= 1:
            raise UserError(f"returns {low:g} … {high:g}: quantiles lie in 0 … 1, the lower one first")
        kept &= found.complete
        if not kept.any():
            raise UserError(f"{where}: no whole episode to choose by return")
        # By rank, so that a share is a share even where most returns are equal; of equals the earlier come first.
        candidates = np.flatnonzero(kept)
        order = candidates[np.argsort(found.total[candidates], kind="stable")]
        first, last = round(low * len(order)), round(high * len(order))
        kept[:] = False
        kept[order[first : max(last, first + 1)]] = True
    if steps is not None:
        kept = _at_most(kept, found.length, steps, where)
    mine = np.repeat(kept, found.length)
    chosen = {"steps": steps, "policy_steps": policy_steps, "returns": returns}
    about: dict[str, Any] = {
        **vault.metadata,
        "horizon": vault.metadata["dims"]["horizon"],
        "subset": {
            **{k: v for k, v in chosen.items() if v is not None},
            "of_steps": len(r.first),
            "of_episodes": len(kept),
            "earlier": vault.metadata.get("subset"),
        },
    }
    return Vault(Recording(*(column[mine] for column in r)), about)


def _at_most(kept: np.ndarray, length: np.ndarray, steps: int, where: Any) -> np.ndarray:
    """As many of the kept episodes as fit, evenly spread: the count is found by bisection."""
    candidates = np.flatnonzero(kept)

    def spread(count: int) -> np.ndarray:
        return candidates[np.arange(count) * len(candidates) // max(count, 1)]

    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length[spread(middle)].sum() <= steps else (low, middle - 1)
    if low == 0:
        raise UserError(
            f"{where}: no episode fits {steps} steps; ask for {length[candidates].min()} at least"
        )
    out = np.zeros_like(kept)
    out[spread(low)] = True
    return out
