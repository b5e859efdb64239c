"""The composition root: from a configuration to tasks, sources, algorithm and evaluator, as one job.

Derived sizes (padding, value support, steps) are computed here, printed, and never written back into a config.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mtmarl import memory
from mtmarl.algos import ALGOS, ONLINE, make_algorithm, parse_algorithm
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.config import Config
from mtmarl.data import vault
from mtmarl.data.sources import (
    SourceContext,
    VaultWindows,
    make_sources,
    needs_vaults,
    open_vaults,
    vault_roots,
    window_options,
)
from mtmarl.envs import entities
from mtmarl.envs.api import InUnits
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.runs.identity import run_directory, train_tasks
from mtmarl.runs.policy import SavedRun, read_saved, sizes_of_task
from mtmarl.training import loop
from mtmarl.training.evaluator import Evaluator
from mtmarl.training.job import Job
from mtmarl.types import Dims, Env, example_batch

# Share of the updates between two evaluations that whole chunks may leave out.
CHUNK_WASTE = 0.05


def _takes(layout: Layout, envs: Sequence[Env], told: bool) -> bool:
    """Whether all tasks fit the layout, and it tells tasks if they are to be told."""
    try:
        for env in envs:
            layout.wrap(env)
    except UserError:
        return False
    return layout.tasks is not None or not told


@dataclass(frozen=True)
class RunSpec:
    """What is known of a run before its data are read. `raw`: its tasks as they are, without the layout. `algo`: with
    any range of values, where it needs that of the data.
    """

    spec: Spec
    settings: Any
    raw: dict[str, Env]
    train_envs: dict[str, Env]
    test_envs: dict[str, Env]
    layout: Layout
    dims: Dims
    plan: loop.Plan
    algo: Algorithm
    needs_vaults: bool
    start: SavedRun | None


def run_spec(cfg: Config, make: Callable[[str], Env] = make_env) -> RunSpec:
    """The algorithm, tasks, sizes and spans of a run, checked. Raises UserError."""
    spec, settings = parse_algorithm(cfg, ALGOS)
    tasks = train_tasks(cfg)
    held_out = [t for t in cfg.tasks.test if t not in tasks]
    raw_train, raw_test = ({t: make(t) for t in names} for names in (tasks, held_out))
    specs = [e.spec for e in raw_train.values()]
    largest_team = max(e.spec.agents for e in (*raw_train.values(), *raw_test.values()))
    told = spec.task_features
    start = read_saved(cfg)
    shuffle_slots = cfg.data.shuffle_slots and spec.shuffles_slots
    layout = Layout.of(specs, cfg.data.agent_ids, largest_team, told, shuffle_slots)
    if start is not None:
        start.check_network(cfg, settings)
        # What it has learned it has learned of observations laid out like this.
        if start.layout is not None and _takes(start.layout, (*raw_train.values(), *raw_test.values()), told):
            layout = start.layout
            if layout.agent_ids != cfg.data.agent_ids:
                raise UserError(
                    f"data.agent_ids={cfg.data.agent_ids}: init_from={cfg.init_from} has learned from observations "
                    f"with data.agent_ids={layout.agent_ids}; give that"
                )
    train_envs, test_envs = (
        {name: layout.wrap(env) for name, env in envs.items()} for envs in (raw_train, raw_test)
    )
    if cfg.evaluator.select_on == "test" and not test_envs:
        raise UserError(
            "evaluator.select_on=test: there are no held-out tasks; name some with tasks.test=[…]"
        )
    agents, horizon = max(s.agents for s in specs), max(s.horizon for s in specs)
    split = entities.of_layout(layout, specs)
    dims = Dims(
        agents, layout.obs, layout.actions, horizon, len(specs), split, layout.task_features, len(layout.families)
    )  # fmt: skip
    plan = loop.Plan(cfg.seed, cfg.trainer.updates, cfg.trainer.chunk, cfg.trainer.checkpoint_every)
    loop.check_plan(plan, [loop.Event(cfg.evaluator.every, lambda update, params: {})])
    # The range of values is read off the vaults, if it is trained on any.
    algo = make_algorithm(spec, settings, dims, plan.updates, (0.0, 1.0))
    if (warmup := spec.rollouts(settings).critic_warmup) % plan.chunk:
        raise UserError(
            f"algo.critic_warmup={warmup} must be a multiple of trainer.chunk={plan.chunk}; lower trainer.chunk"
        )
    loop.check_phases(algo, plan)
    return RunSpec(
        spec,
        settings,
        raw_train | raw_test,
        train_envs,
        test_envs,
        layout,
        dims,
        plan,
        algo,
        needs_vaults(algo),
        start,
    )


def prepare(cfg: Config) -> Job:
    """Everything that a run of mtmarl.train needs. All checks are made here, before anything compiles."""
    run_directory(cfg, "")  # Refused here rather than after the data are read.
    o = run_spec(cfg)
    raw = lambda envs: {task: o.raw[task] for task in envs}
    vaults = VaultWindows(None, None, [1.0] * len(o.train_envs), 0, [])
    if o.needs_vaults:
        vaults = open_vaults(cfg, o.spec, o.settings, raw(o.train_envs), raw(o.test_envs), o.layout, o.dims)
    algo = o.algo
    if "value_range" in o.spec.needs:
        algo = make_algorithm(o.spec, o.settings, o.dims, o.plan.updates, vaults.value_range)
    # What is played while training pays in the units of what was recorded.
    envs = [InUnits(env, unit) for env, unit in zip(o.train_envs.values(), vaults.units, strict=True)]
    options = window_options(cfg, o.layout)
    sources = make_sources(SourceContext(cfg, o.settings, algo, envs, o.plan.updates, vaults.make, options))
    agents, episodes = [env.spec.agents for env in envs], ("evaluator.episodes", cfg.evaluator.episodes)
    memory.check(cfg, o.spec, o.settings, algo, sources, example_batch(o.dims), agents, episodes)
    all_envs = {**o.train_envs, **o.test_envs}
    evaluator = Evaluator(all_envs, algo.act, algo.init_carry, cfg.evaluator.episodes, cfg.seed)
    references = known_references(cfg, all_envs)
    start = None if o.start is None else o.start.load(cfg, o.settings, algo, example_batch(o.dims))
    return Job(
        o.train_envs, o.test_envs, o.layout, o.dims, algo, sources, evaluator, o.plan, references, vaults.value_range,
        vaults.steps, cfg.data.balanced, start, cfg.evaluator.every, columns=vaults.columns,
    )  # fmt: skip


def known_references(cfg: Config, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The reference returns of tasks, of the first vault root that has any of a task."""
    found: dict[str, dict[str, Any]] = {}
    for root in vault_roots(cfg) or vault.default_roots():
        found = {**vault.read_references(root), **found}
    return {task: found[task] for task in tasks if task in found}


def prepare_collection(cfg: Config, task: str) -> Job:
    """Everything to collect one task: to train on it online. All spans are rounded to whole chunks of updates."""
    c, env = cfg.collect, make_env(task)
    spec, settings = parse_algorithm(cfg, ONLINE)
    per_update = c.num_envs * c.rollout_length
    updates = max(1, c.env_steps // per_update)
    # Evaluations, recordings and the end of a warm-up fall on chunk borders: the longest chunk that wastes few updates.
    spans = [max(1, updates // count) for count in (c.evaluations, c.record_points)]
    wasted = lambda n: sum(s % n for s in spans) / sum(spans)
    warmup = spec.rollouts(settings).critic_warmup
    chunk = next(n for n in range(min(20, *spans), 0, -1) if wasted(n) <= CHUNK_WASTE and warmup % n == 0)
    evaluate_every, record_every = (s // chunk * chunk for s in spans)
    updates = max(evaluate_every * c.evaluations, record_every * c.record_points)
    layout, dims = sizes_of_task(env.spec)
    algo = make_algorithm(spec, settings, dims, updates)
    sources = make_sources(SourceContext(cfg, settings, algo, [env], updates, None))
    episodes = ("collect.eval_episodes", c.eval_episodes)
    memory.check(cfg, spec, settings, algo, sources, example_batch(dims), [env.spec.agents], episodes)
    evaluator = Evaluator({task: env}, algo.act, algo.init_carry, c.eval_episodes, cfg.seed)
    plan = loop.Plan(cfg.seed, updates, chunk, evaluate_every)
    start = read_saved(cfg)
    if start is not None:
        start.check_network(cfg, settings)
    found = None if start is None else start.load(cfg, settings, algo, example_batch(dims))
    return Job(
        {task: env}, {}, layout, dims, algo, sources, evaluator, plan, {}, None, 0, True, found, evaluate_every,
        record_every,
    )  # fmt: skip
