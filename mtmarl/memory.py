"""A check, before compilation, that the arrays of a run fit into memory.

The estimate is a lower bound without temporary buffers, so a run that fits is never refused.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mtmarl.algos.base import Algorithm, Spec
from mtmarl.config import Config
from mtmarl.data.source import Source
from mtmarl.errors import UserError
from mtmarl.random_streams import Stream, stream
from mtmarl.types import Batch


def available() -> int | float:
    """Returns the bytes of RAM, swap and accelerator memory; infinity if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        meminfo = dict(entry.split(":") for entry in Path("/proc/meminfo").read_text().splitlines())
        total += 1024 * int(meminfo["SwapTotal"].split()[0])
    except (OSError, ValueError, LookupError, AttributeError):
        return math.inf
    for device in jax.local_devices():
        if device.platform != "cpu":
            total += (device.memory_stats() or {}).get("bytes_limit", math.inf)
    # The processes of a distributed run may have separate memories.
    return total if total > 0 and jax.process_count() == 1 else math.inf


def size(tree: Any) -> int:
    """Returns the bytes of the arrays (or their shapes) in a pytree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check(
    cfg: Config,
    spec: Spec,
    settings: Any,
    algo: Algorithm,
    sources: Mapping[str, Source],
    example: Batch,
    agents: Sequence[int],
    episodes: tuple[str, int],
) -> None:
    """Raises UserError, which names the setting to lower, if the arrays of a run exceed all memory.

    agents: team size of each training task. episodes: (setting, number) of the parallel evaluation episodes.
    """
    seeds, tasks, c, t = len(cfg.seeds or (0,)), len(agents), cfg.collect, cfg.trainer
    step = size((example.obs, example.action_mask, example.action)) // math.prod(example.first.shape)
    recorded = ("trainer.batch_size", t.batch_size * t.context)
    played = ("collect.num_envs", tasks * c.num_envs * c.rollout_length)
    steps = {"default": recorded, "hybrid": recorded, "on_policy": played, "on_policy+vault": played}
    if "replay" in sources:
        steps["replay"] = ("algo.batch_size", settings.batch_size * settings.context)
    learner = jax.eval_shape(algo.init, stream(0, Stream.PARAMETERS), example)
    state = jax.eval_shape(next(iter(sources.values())).init, stream(0, Stream.SOURCE))
    carry = jax.eval_shape(lambda: algo.init_carry(episodes[1], max(agents)))
    width = "algo.network.embed_dim" if spec.has_network else "the widths of algo"
    stored = "algo.capacity" if sources.keys() & {"replay", "hybrid"} else "collect.num_envs"
    permanent = {width: seeds * size(learner), stored: seeds * size(state)}
    temporary = {episodes[0]: size(carry)}
    for name in sources:
        key, count = steps[name]
        temporary[key] = seeds * count * step
    total, limit, needs = (
        sum(permanent.values()) + max(temporary.values()),
        available(),
        permanent | temporary,
    )
    if total > limit:
        key = max(needs, key=lambda key: needs[key])
        raise UserError(
            f"{key}: its arrays need {needs[key] / 1e9:,.1f} GB, all arrays of the run {total / 1e9:,.1f} GB; this "
            f"machine has {limit / 1e9:,.1f} GB; lower {key}"
        )
