"""What the phases of an algorithm draw batches from: vaults, fresh rollouts, replay, or mixtures of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmarl import terminal
from mtmarl.algos import ALGOS
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.config import Config
from mtmarl.data import vault
from mtmarl.data.coverage import FamilyColumns, unvaried_columns
from mtmarl.data.host_source import host_source, map_vault, stored_bytes
from mtmarl.data.hybrid import hybrid_source
from mtmarl.data.on_policy import on_policy_source
from mtmarl.data.replay import replay_source
from mtmarl.data.sampling import make_task_data, subsample
from mtmarl.data.source import (
    Source,
    Windows,
    combine_phases,
    stack_task_sources,
    vault_source,
    with_offline_batch,
)
from mtmarl.envs.layout import Layout, family_of
from mtmarl.errors import UserError
from mtmarl.runs.identity import train_tasks
from mtmarl.types import Dims, Env

# The support of a value distribution reaches this share of the range beyond the returns in the data.
SUPPORT_MARGIN = 0.1


def vault_roots(cfg: Config) -> list[Path] | None:
    return None if cfg.data.vault_dir is None else [Path(cfg.data.vault_dir).expanduser().resolve()]


def find_vaults(cfg: Config, tasks: Sequence[str]) -> list[Path]:
    """Where the vaults of these tasks lie; those missing are pulled first if `data.download` says so."""
    roots, address, quality = vault_roots(cfg), cfg.hub.url or cfg.tasks.hub, cfg.data.quality
    places = roots or vault.default_roots()
    here = lambda task: any(vault.has_vault(vault.vault_path(root, task, quality)) for root in places)
    missing = [f"{task}/{quality}" for task in tasks if not here(task)]
    if missing and cfg.data.download:
        from mtmarl.data import hub

        if address is None:
            raise UserError(f"data.download: no hub to fetch {', '.join(missing)} from; give hub.url=ADDRESS")
        hub.pull(
            address,
            roots[0] if roots else vault.own_root(),
            missing,
            say=lambda line: None if cfg.quiet else terminal.say(line),
        )
    return [vault.find_vault(task, quality, roots, address) for task in tasks]


@dataclass(frozen=True)
class SourceContext:
    """What sources are made of. `envs`: the training tasks in their layout; `updates`: of the whole run.

    windows(rows, steps, **options) -> a source of vault windows; None where no phase needs vaults. `options`: those of
    `data.source.Windows`.
    """

    cfg: Config
    settings: Any
    algo: Algorithm
    envs: Sequence[Env]
    updates: int
    windows: Callable[..., Source] | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def vault_windows(self, rows: int, **other: Any) -> Source:
        """`other`: options in place of those asked for."""
        assert self.windows is not None
        return self.windows(rows, self.cfg.trainer.context, **{**self.options, **other})

    def played(self, make: Callable[..., Source], *more: Any) -> Source:
        """`make(env, act, init_carry, num_envs, steps, pool, *more)` of every task, side by side."""
        c, algo = self.cfg.collect, self.algo
        played = (algo.act, algo.init_carry, c.num_envs, c.rollout_length, c.num_envs)
        return stack_task_sources([make(env, *played, *more) for env in self.envs])


def _on_policy(context: SourceContext) -> Source:
    asked, c = ALGOS[context.cfg.algo_name].rollouts(context.settings), context.cfg.collect
    count = asked.minibatches
    rows = len(context.envs) * c.num_envs
    if rows % count:
        raise UserError(
            f"collect.num_envs={c.num_envs}: {rows} rows of a batch do not divide into algo.minibatches={count}"
        )
    return context.played(on_policy_source, "value" if asked.limit_values else None)


def _replay(context: SourceContext) -> Source:
    """Every task has its share of the capacity and of the rows."""
    s, tasks = context.settings, len(context.envs)
    rows = -(-s.batch_size // tasks) * s.gradient_steps
    explore = partial(s.exploration, updates=context.updates)
    return context.played(replay_source, s.capacity // tasks, rows, s.context, explore)


def _played_and_vault(context: SourceContext) -> Source:
    rows = len(context.envs) * context.cfg.collect.num_envs
    return with_offline_batch(_on_policy(context), context.vault_windows(rows))


def _hybrid(context: SourceContext) -> Source:
    """Agents are shuffled and numbered, and padding unmasked, once recorded and played rows are in one batch."""
    s, c, t, algo = context.settings, context.cfg.collect, context.cfg.trainer, context.algo
    windows = Windows((), t.batch_size, t.context, **context.options)
    vault = context.vault_windows(t.batch_size, shuffle=False, ids=0, mask=True)
    played = (context.envs, algo.act, algo.init_carry, c.num_envs, c.rollout_length, c.num_envs)
    share, explore = (partial(schedule, updates=context.updates) for schedule in (s.share_at, s.exploration))
    return hybrid_source(vault, windows, *played, s.capacity, share, explore)


# By the names that phases give; beside each, whether it takes vaults.
SOURCES: dict[str, tuple[bool, Callable[[SourceContext], Source]]] = {
    "default": (True, lambda context: context.vault_windows(context.cfg.trainer.batch_size)),
    "on_policy": (False, _on_policy),
    "replay": (False, _replay),
    "on_policy+vault": (True, _played_and_vault),
    "hybrid": (True, _hybrid),
}


def source_names(algo: Algorithm) -> list[str]:
    """The sources of the phases that get any updates."""
    return list(dict.fromkeys(p.source for p in algo.phases if p.fraction > 0))


def needs_vaults(algo: Algorithm) -> bool:
    return any(SOURCES[name][0] for name in source_names(algo))


def make_sources(context: SourceContext) -> dict[str, Source]:
    """What the phases of the algorithm draw from, by name, with one state for all."""
    return combine_phases({name: SOURCES[name][1](context) for name in source_names(context.algo)})


def value_support(vaults: Sequence[vault.Vault], gamma: float) -> tuple[float, float]:
    """Bounds of the value distribution: discounted returns of the training data with a margin on both sides."""
    low, high = vault.returns_to_go_range([v.recording for v in vaults], gamma)
    low, high = min(low, 0.0), max(high, 0.0)  # A fresh critic predicts 0.
    margin = SUPPORT_MARGIN * max(high - low, 1e-3)
    return low - margin, high + margin


def reward_units(vaults: Sequence[vault.Vault], families: Sequence[str], gamma: float) -> list[float]:
    """What rewards are divided by: of several families, its largest discounted return in these data, either sign.

    RWARE's returns are more than ten times LBF's, and one support and one temperature must serve both. A single
    family keeps its rewards.
    """
    if len(set(families)) == 1:
        return [1.0] * len(vaults)
    units = []
    for family in families:
        own = [v.recording for v, f in zip(vaults, families, strict=True) if f == family]
        units.append(max(1e-6, *map(abs, vault.returns_to_go_range(own, gamma))))
    return units


def in_units(v: vault.Vault, unit: float) -> vault.Vault:
    if unit == 1:
        return v
    reward = (v.recording.reward / unit).astype(np.float32)
    return v._replace(recording=v.recording._replace(reward=reward))


def exceeds_memory(cfg: Config, paths: Sequence[Path]) -> bool:
    """Whether these vaults are more than `data.memory_mb` allows to hold at once."""
    if cfg.data.memory_mb is None:
        return False
    size = sum(stored_bytes(vault.read_metadata(p)) for p in paths)
    if cfg.data.fraction * size <= cfg.data.memory_mb * 2**20:
        return False
    if cfg.data.fraction < 1:
        raise UserError(
            f"data.fraction={cfg.data.fraction:g} of {size / 2**20:,.0f} MB is more than data.memory_mb="
            f"{cfg.data.memory_mb}, and vaults that stay on disk are used whole; write the share as a vault of its own"
        )
    return True


def window_options(cfg: Config, layout: Layout) -> dict[str, Any]:
    """What is done to windows, for `data.source.Windows`."""
    return dict(
        shuffle=cfg.data.shuffle_agents, balanced=cfg.data.balanced, mask=cfg.data.mask_agents, ids=layout.ids,
        random_ids=layout.random_ids, end_at_limits=cfg.data.end_at_limits,
        slots=tuple(layout.slots_of(family_of(task)) for task in train_tasks(cfg)) if layout.slots else (),
    )  # fmt: skip


class VaultWindows(NamedTuple):
    """The vaults of the training tasks. make(rows, steps, **options) -> a source of windows of them, None without
    vaults; value_range: the support of values; units: what the rewards of each task are divided by; steps: how many are
    recorded; columns: those of observations that never vary, where a network reads them by their position.
    """

    make: Callable[..., Source] | None
    value_range: tuple[float, float] | None
    units: list[float]
    steps: int
    columns: list[FamilyColumns]


def open_vaults(
    cfg: Config,
    spec: Spec,
    settings: Any,
    train: Mapping[str, Env],
    test: Mapping[str, Env],
    layout: Layout,
    dims: Dims,
) -> VaultWindows:
    """Finds and checks the vaults of the training tasks. `train` and `test`: tasks as they are, without a layout."""
    specs = [env.spec for env in train.values()]
    paths = find_vaults(cfg, list(train))
    mapped = exceeds_memory(cfg, paths)
    read = map_vault if mapped else vault.read_vault
    vaults = [subsample(read(p), cfg.data.fraction) for p in paths]
    for v, of in zip(vaults, specs, strict=True):
        steps, recorded = len(v.recording.first), v.recording
        if steps < cfg.trainer.context:
            raise UserError(
                f"{v.path}: {steps} steps, fewer than trainer.context={cfg.trainer.context}; lower that or collect more"
            )
        shape = (recorded.mask.shape[1], recorded.obs.shape[2], recorded.mask.shape[2])
        if shape != (of.agents, of.obs, of.actions):
            raise UserError(
                f"{v.path}: holds (agents, observation, actions) {shape}, {of.name} has "
                f"{(of.agents, of.obs, of.actions)}; collect it again"
            )
    value_range, units = None, [1.0] * len(vaults)
    if spec.learns_values:
        units = reward_units(vaults, [of.family for of in specs], settings.gamma)
        vaults = [in_units(v, unit) for v, unit in zip(vaults, units, strict=True)]
        value_range = value_support(vaults, settings.gamma)
    columns = []
    if spec.shuffles_slots:
        slots = {family: layout.slots_of(family) for family in layout.families}
        columns = unvaried_columns(vaults, list(train.values()), test, slots)
    stored = replace(dims, obs=layout.known)
    constants, scale = [layout.constant(of) for of in specs], layout.constant_scale
    if mapped:
        memory, chunk = (cfg.data.memory_mb or 0) * 2**20, cfg.trainer.chunk * len(cfg.seeds or (0,))
        told = dict(constants=constants, constant_scale=scale)
        make = partial(host_source, vaults, stored, chunk=chunk, memory=memory, **told)
    else:
        make = partial(vault_source, make_task_data(vaults, stored, constants, scale))
    return VaultWindows(make, value_range, units, sum(len(v.recording.first) for v in vaults), columns)
