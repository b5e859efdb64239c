"""The composition root: from a configuration to tasks, sources, algorithms, evaluators and sinks.

Derived sizes (padding, value support, steps) are computed here, printed, and never written back into a config.
"""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mtmarl
from mtmarl import config, foreign, memory, terminal
from mtmarl.algos import ALGOS, ONLINE
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.command_lines import command, line, word
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
from mtmarl.envs import entities
from mtmarl.envs.api import InUnits
from mtmarl.envs.layout import Layout, family_of
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.files import files_below, is_utf8, only_writer, write_json
from mtmarl.random_streams import RULE, Stream, stream
from mtmarl.runs.record import read_best, read_progress, read_run
from mtmarl.settings import deciding, differing, listed, without_use
from mtmarl.sinks import Sinks, open_sinks
from mtmarl.training import loop, sharding
from mtmarl.training.checkpoint import Matching, load_matching, load_params, names
from mtmarl.training.evaluator import EvalResult, Evaluator
from mtmarl.types import Dims, Env, example_batch

# The support of a value distribution reaches this share of the range beyond the returns in the data.
SUPPORT_MARGIN = 0.1
# Share of the updates between two evaluations that whole chunks may leave out.
CHUNK_WASTE = 0.05
# Folders have names of at most 255 bytes; where the training tasks begin and how many they are follows.
LONGEST_LABEL = 200


def train_tasks(cfg: Config) -> tuple[str, ...]:
    """The training tasks: `tasks.first` of the set, in its order from `tasks.start` on."""
    tasks = cfg.tasks.train
    start = cfg.tasks.start % max(1, len(tasks))
    return (*tasks[start:], *tasks[:start])[: cfg.tasks.first]


def task_set_label(cfg: Config) -> str:
    """How this task set is called in paths and reports; short enough for the name of a folder."""
    name = (cfg.tasks.name or "+".join(cfg.tasks.train)).replace("/", "-")
    if len(name) > LONGEST_LABEL:
        name = f"{name[: LONGEST_LABEL - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    whole = len(train_tasks(cfg)) == len(cfg.tasks.train)
    start = f"-from{cfg.tasks.start}" if cfg.tasks.start else ""
    return name + start if whole else f"{name}{start}-first{cfg.tasks.first}"


def run_directory(cfg: Config, default: str) -> Path:
    """Where a run is written. Raises UserError for a place that the checkpoint library takes for something else."""
    place = Path(cfg.run_dir or Path("runs") / default).expanduser().resolve()
    # Patterns, addresses, and bytes that are no text.
    found = [odd for odd in ("*", "?", "[", "\\", ":/") if odd in f"{place}/"]
    if found or not is_utf8(place):
        what = " ".join(found) or "a name that is not UTF-8"
        raise UserError(
            f"run_dir={str(place)!r}: checkpoints cannot be kept below {what}; give another run_dir"
        )
    return place


def make_envs(names: Sequence[str]) -> dict[str, Env]:
    return {name: make_env(name) for name in names}


def parse_algorithm(cfg: Config, known: Mapping[str, Spec]) -> tuple[Spec, Any]:
    """The algorithm that is asked for and its parsed settings. `known`: ALGOS or a part of them."""
    if cfg.algo_name not in known:
        raise UserError(f"+algo={cfg.algo_name} does not run here; choose one of {', '.join(known)}")
    spec = known[cfg.algo_name]
    where = f"configs/algo/{cfg.algo_name}.yaml or the command line"
    return spec, config.parse(spec.Config, cfg.algo, where, "algo")


def parameter_count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


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


# --------------------------------------------------------------------------------------- earlier policies


@dataclass(frozen=True)
class Start:
    """The policy that a run begins with. `tasks`: those it was trained on. `layout`: in which it saw them; None where
    that is not on record. `env_steps`: how many it had played, and where it began with another, that one too.
    """

    path: Path
    cfg: Config
    tasks: list[str]
    layout: Layout | None
    env_steps: int

    def summary(self) -> dict[str, Any]:
        """Which policy it is, wherever it lies: for the metadata of vaults."""
        return {
            "algorithm": self.cfg.algo_name,
            "tasks": self.tasks,
            "seed": self.cfg.seed,
            "policy": self.path.name,
        }

    def check_network(self, cfg: Config, settings: Any) -> None:
        """Two networks of one kind must agree in what shapes do not show, such as how long memory lasts."""
        spec, earlier = parse_algorithm(self.cfg, ALGOS)
        if not (spec.has_network and ALGOS[cfg.algo_name].has_network):
            return
        ours, theirs = settings.network, earlier.network
        if type(ours) is not type(theirs):
            return
        differing = {
            k: v for k, v in vars(theirs).items() if k not in _FREE_OF_NETWORK and v != vars(ours)[k]
        }
        if differing:
            wanted = line(*(word(f"algo.network.{k}", v) for k, v in differing.items()))
            raise UserError(f"init_from={cfg.init_from}: its network is another one; give {wanted}")

    def load(self, cfg: Config, settings: Any, algo: Algorithm, example: Any) -> Matching:
        """What of it fits the algorithm. Raises UserError where nothing does.

        A critic of returns at unit size means nothing without their means and spreads, which stay with the run that
        measured them: it begins anew.
        """
        like = jax.eval_shape(algo.init, stream(0, Stream.PARAMETERS), example).params
        spec, earlier = parse_algorithm(self.cfg, ALGOS)
        both = (spec.rollouts(earlier), ALGOS[cfg.algo_name].rollouts(settings))
        unit_size = any(asked.unit_values for asked in both)
        found = load_matching(self.path, like, anew=algo.critic if unit_size else ())
        if not found.params:
            raise UserError(
                f"init_from={cfg.init_from}: no parameter of {self.cfg.algo_name} fits {cfg.algo_name} on "
                f"{cfg.tasks.name}, which would start from nothing"
            )
        return found


def _takes(layout: Layout, envs: Sequence[Env], told: bool) -> bool:
    """Whether all tasks fit the layout, and it tells tasks if they are to be told."""
    try:
        for env in envs:
            layout.wrap(env)
    except UserError:
        return False
    return layout.tasks is not None or not told


# They change how a network is computed, not what it computes.
_FREE_OF_NETWORK = ("form", "dtype")


def read_start(cfg: Config) -> Start | None:
    """What `init_from` names, with the record of how it was trained. Raises UserError."""
    if cfg.init_from is None:
        return None
    run_dir = Path(cfg.init_from).expanduser()
    record = read_run(run_dir)
    if record is None:
        made = re.search(r"\bsweeps/([^/]+)-([^/-]+)/", run_dir.as_posix())
        by = ""
        if made is not None and made[1] in config.options("sweep"):
            by = f", or first: {command('sweep', f'+sweep={made[1]}', f'profile={made[2]}')}"
        raise UserError(f"init_from={cfg.init_from}: no run.json there; give the directory of a run{by}")
    layout = record.get("layout")
    layout = None if layout is None else Layout.from_record(layout)
    earlier = config.parse_recorded(record["config"], str(run_dir / "run.json"))
    played = _env_steps(run_dir, record, earlier, cfg.which == "best")
    played += (record.get("start") or {}).get("env_steps", 0)
    tasks = record.get("train_tasks") or list(earlier.tasks.train)
    return Start(run_dir / f"policy_{cfg.which}", earlier, tasks, layout, played)


def _env_steps(run_dir: Path, record: Mapping[str, Any], cfg: Config, best: bool) -> int:
    """How many the best policy of a run had played, or its last."""
    if record.get("kind") != "collect":
        own = read_best(run_dir) if best else None
        counts = (own or {}).get("counts") or record.get("counts") or {}
        return counts.get("env_steps", 0)
    made = (read_progress(run_dir) or {"evaluations": []})["evaluations"]
    if not made:
        return cfg.collect.env_steps
    at = max(made, key=lambda e: (e["return"], e["update"])) if best else made[-1]
    return at["update"] * cfg.collect.num_envs * cfg.collect.rollout_length


def begin_with(state: loop.TrainState, found: Matching) -> loop.TrainState:
    """A fresh state of one seed with the parameters that were found, in the target network too."""

    def put(tree: Any) -> Any:
        new = {
            name: jax.device_put(jnp.array(found.params[name], leaf.dtype), leaf.sharding)
            if name in found.params and found.params[name].shape == leaf.shape
            else leaf
            for name, leaf in names(tree).items()
        }
        return jax.tree.unflatten(jax.tree.structure(tree), new.values())

    learner = state.learner
    return state._replace(learner=learner._replace(params=put(learner.params), target=put(learner.target)))


def say_start(cfg: Config, found: Matching) -> str:
    """A line for the screen: from what a run starts, and what it does not find there."""
    known = len(found.params)
    line = f"starts from {cfg.init_from} ({cfg.which}): {known} of {known + len(found.fresh)} arrays of parameters"
    whole = {name.partition("/")[0] for name in found.params}
    short = dict.fromkeys(n if n.partition("/")[0] in whole else n.partition("/")[0] for n in found.fresh)
    # Whole modules that are left over are heads that this algorithm does without.
    left = [n for n in found.unused if n.partition("/")[0] in whole]
    return line + "".join(
        f"; {what}: {', '.join(names)}" for what, names in (("fresh", short), ("left out", left)) if names
    )


# ----------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Parts:
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


def _on_policy(parts: Parts) -> Source:
    asked, c = ALGOS[parts.cfg.algo_name].rollouts(parts.settings), parts.cfg.collect
    count = asked.minibatches
    rows = len(parts.envs) * c.num_envs
    if rows % count:
        raise UserError(
            f"collect.num_envs={c.num_envs}: {rows} rows of a batch do not divide into algo.minibatches={count}"
        )
    return parts.played(on_policy_source, "value" if asked.limit_values else None)


def _replay(parts: Parts) -> Source:
    """Every task has its share of the capacity and of the rows."""
    s, tasks = parts.settings, len(parts.envs)
    rows = -(-s.batch_size // tasks) * s.gradient_steps
    explore = partial(s.exploration, updates=parts.updates)
    return parts.played(replay_source, s.capacity // tasks, rows, s.context, explore)


def _played_and_vault(parts: Parts) -> Source:
    rows = len(parts.envs) * parts.cfg.collect.num_envs
    return with_offline_batch(_on_policy(parts), parts.vault_windows(rows))


def _hybrid(parts: Parts) -> Source:
    """Agents are shuffled and numbered, and padding unmasked, once recorded and played rows are in one batch."""
    s, c, t, algo = parts.settings, parts.cfg.collect, parts.cfg.trainer, parts.algo
    windows = Windows((), t.batch_size, t.context, **parts.options)
    vault = parts.vault_windows(t.batch_size, shuffle=False, ids=0, mask=True)
    played = (parts.envs, algo.act, algo.init_carry, c.num_envs, c.rollout_length, c.num_envs)
    share, explore = (partial(schedule, updates=parts.updates) for schedule in (s.share_at, s.exploration))
    return hybrid_source(vault, windows, *played, s.capacity, share, explore)


# By the names that phases give; beside each, whether it takes vaults.
SOURCES: dict[str, tuple[bool, Callable[[Parts], Source]]] = {
    "default": (True, lambda parts: parts.vault_windows(parts.cfg.trainer.batch_size)),
    "on_policy": (False, _on_policy),
    "replay": (False, _replay),
    "on_policy+vault": (True, _played_and_vault),
    "hybrid": (True, _hybrid),
}


def source_names(algo: Algorithm) -> list[str]:
    """The sources of the phases that get any updates."""
    return list(dict.fromkeys(p.source for p in algo.phases if p.fraction > 0))


def make_sources(parts: Parts) -> dict[str, Source]:
    """What the phases of the algorithm draw from, by name, with one state for all."""
    return combine_phases({name: SOURCES[name][1](parts) for name in source_names(parts.algo)})


def make_algorithm(
    spec: Spec, settings: Any, dims: Dims, updates: int, value_range: tuple[float, float] | None = None
) -> Algorithm:
    """The algorithm with these settings; it is given the rest as far as it needs it."""
    known = {"updates": updates, "value_range": value_range}
    return spec.make(settings, dims, **{name: known[name] for name in spec.needs})


# -------------------------------------------------------------------------------------------- collection


@dataclass(frozen=True)
class OnlineJob:
    """Online training on one task, for its vaults. `start`: what `init_from` gives it."""

    env: Env
    algo: Algorithm
    sources: dict[str, Source]
    evaluator: Evaluator
    plan: loop.Plan
    evaluate_every: int
    record_every: int
    start: Matching | None
    seed: int

    @property
    def parameters(self) -> int:
        return parameter_count(
            jax.eval_shape(self.algo.init, stream(0, Stream.PARAMETERS), self.example).params
        )

    @property
    def source(self) -> Source:
        return next(iter(self.sources.values()))

    @property
    def example(self):
        return example_batch(self.env.spec.dims)

    def initial_state(self) -> loop.TrainState:
        """Fresh, or with the policy of another run (the network does not know team sizes)."""
        state = loop.initial_state(self.algo, self.source, self.example, self.seed)
        return state if self.start is None else begin_with(state, self.start)


def online(cfg: Config, task: str) -> OnlineJob:
    """Everything to train `cfg.algo_name` on one task. All spans are rounded to whole chunks of updates."""
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
    dims = replace(env.spec.dims, entities=entities.of_layout(Layout.of([env.spec])))
    algo = make_algorithm(spec, settings, dims, updates)
    sources = make_sources(Parts(cfg, settings, algo, [env], updates, None))
    episodes = ("collect.eval_episodes", c.eval_episodes)
    memory.check(
        cfg, spec, settings, algo, sources, example_batch(env.spec.dims), [env.spec.agents], episodes
    )
    evaluator = Evaluator({task: env}, algo.act, algo.init_carry, c.eval_episodes, cfg.seed)
    plan = loop.Plan(cfg.seed, updates, chunk, evaluate_every)
    start = read_start(cfg)
    if start is not None:
        start.check_network(cfg, settings)
    found = None if start is None else start.load(cfg, settings, algo, example_batch(env.spec.dims))
    return OnlineJob(env, algo, sources, evaluator, plan, evaluate_every, record_every, found, cfg.seed)


# ----------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Job:
    """A run of mtmarl.train. `steps`: recorded ones of its vaults; 0 where no phase needs any.

    balanced: every batch holds every task; else one of them. `start`: what `init_from` gives it. `columns`: the
    observation columns that its vaults never vary; none where the network does not read columns by their position.
    """

    train_envs: dict[str, Env]
    test_envs: dict[str, Env]
    layout: Layout
    dims: Dims
    algo: Algorithm
    sources: dict[str, Source]
    evaluator: Evaluator
    plan: loop.Plan
    references: dict[str, dict[str, float]]
    value_range: tuple[float, float] | None
    steps: int
    balanced: bool
    start: Matching | None
    seed: int
    columns: list[FamilyColumns] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return parameter_count(
            jax.eval_shape(self.algo.init, stream(0, Stream.PARAMETERS), example_batch(self.dims)).params
        )

    @property
    def example(self):
        return example_batch(self.dims)

    @property
    def source(self) -> Source:
        """Any of them: they share their state."""
        return next(iter(self.sources.values()))

    def env_steps(self, update: int) -> int:
        """Steps of environments, of all tasks together, that the first `update` updates take."""
        begin, total = 0, 0
        for phase, end in zip(self.algo.phases, loop.phase_ends(self.algo, self.plan), strict=True):
            if end > begin:
                total += max(0, min(update, end) - begin) * self.sources[phase.source].env_steps
            begin = end
        return total

    def counts(self, update: int) -> dict[str, int]:
        """What `update` updates come to: batches of single tasks, and env steps where any are taken."""
        played = self.env_steps(update)
        batches = {"task_batches": update * (self.dims.tasks if self.balanced else 1)}
        return {**batches, "env_steps": played} if self.env_steps(self.plan.updates) else batches

    def initial_state(self, seed: int | tuple[int, ...]) -> loop.TrainState:
        """Before the first update, of one seed or of several."""
        state = loop.initial_state(self.algo, self.source, self.example, seed)
        if self.start is None:
            return state
        if not isinstance(seed, tuple):
            return begin_with(state, self.start)
        return loop.stack([begin_with(one, self.start) for one in loop.unstack(state)], seed)

    def split(self, task: str) -> str:
        return "train" if task in self.train_envs else "test"

    def summary(self, results: Mapping[str, EvalResult]) -> dict[str, dict[str, Any]]:
        """The form that sinks take."""
        specs = {task: env.spec for task, env in (self.train_envs | self.test_envs).items()}
        return {
            task: {
                "return": r.episode_return.tolist(),
                "length": r.length.tolist(),
                "normalised": r.normalised(specs[task], self.references.get(task, {}).get("reference")),
                "win_rate": r.win_rate(specs[task]),
                "split": self.split(task),
            }
            for task, r in results.items()
        }


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


@dataclass(frozen=True)
class Outline:
    """What is known of a run before its data are read."""

    spec: Spec
    settings: Any
    train_envs: dict[str, Env]
    test_envs: dict[str, Env]
    layout: Layout
    dims: Dims
    plan: loop.Plan
    needs_vaults: bool
    start: Start | None


def outline(cfg: Config, make: Callable[[str], Env] = make_env) -> Outline:
    """The algorithm, tasks, sizes and spans of a run, checked. Raises UserError."""
    spec, settings = parse_algorithm(cfg, ALGOS)
    tasks = train_tasks(cfg)
    held_out = [t for t in cfg.tasks.test if t not in tasks]
    raw_train, raw_test = ({t: make(t) for t in names} for names in (tasks, held_out))
    specs = [e.spec for e in raw_train.values()]
    largest_team = max(e.spec.agents for e in (*raw_train.values(), *raw_test.values()))
    told = spec.task_features
    start = read_start(cfg)
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
        agents,
        layout.obs,
        layout.actions,
        horizon,
        len(specs),
        split,
        layout.task_features,
        len(layout.families),
    )
    plan = loop.Plan(cfg.seed, cfg.trainer.updates, cfg.trainer.chunk, cfg.trainer.checkpoint_every)
    loop.check_plan(plan, [loop.Event(cfg.evaluator.every, lambda update, params: {})])
    # Only to see what it is trained on: the range of values is read off the vaults, if it is trained on any.
    algo = make_algorithm(spec, settings, dims, plan.updates, (0.0, 1.0))
    if (warmup := spec.rollouts(settings).critic_warmup) % plan.chunk:
        raise UserError(
            f"algo.critic_warmup={warmup} must be a multiple of trainer.chunk={plan.chunk}; lower trainer.chunk"
        )
    loop.check_phases(algo, plan)
    needs_vaults = any(SOURCES[name][0] for name in source_names(algo))
    return Outline(spec, settings, train_envs, test_envs, layout, dims, plan, needs_vaults, start)


def prepare(cfg: Config) -> Job:
    """Everything that a run of mtmarl.train needs. All checks are made here, before anything compiles."""
    run_directory(cfg, "")  # Refused here rather than after the data are read.
    o, tasks = outline(cfg), train_tasks(cfg)
    windows, support, units, steps, columns = None, None, [1.0] * len(tasks), 0, []
    if o.needs_vaults:
        windows, support, units, steps, columns = _vault_windows(cfg, o)
    algo = make_algorithm(o.spec, o.settings, o.dims, o.plan.updates, support)
    # What is played while training pays in the units of what was recorded.
    envs = [InUnits(o.train_envs[task], unit) for task, unit in zip(tasks, units, strict=True)]
    options = window_options(cfg, o.layout)
    sources = make_sources(Parts(cfg, o.settings, algo, envs, o.plan.updates, windows, options))
    agents, episodes = [env.spec.agents for env in envs], ("evaluator.episodes", cfg.evaluator.episodes)
    memory.check(cfg, o.spec, o.settings, algo, sources, example_batch(o.dims), agents, episodes)
    all_envs = {**o.train_envs, **o.test_envs}
    evaluator = Evaluator(all_envs, algo.act, algo.init_carry, cfg.evaluator.episodes, cfg.seed)
    references: dict[str, dict[str, float]] = {}
    for root in vault_roots(cfg) or vault.default_roots():
        references = {**vault.read_references(root), **references}
    known = {t: references[t] for t in all_envs if t in references}
    start = None if o.start is None else o.start.load(cfg, o.settings, algo, example_batch(o.dims))
    return Job(
        o.train_envs, o.test_envs, o.layout, o.dims, algo, sources, evaluator, o.plan, known, support, steps,
        cfg.data.balanced, start, cfg.seed, columns,
    )  # fmt: skip


def window_options(cfg: Config, layout: Layout) -> dict[str, Any]:
    """What is done to windows, for `data.source.Windows`."""
    return dict(
        shuffle=cfg.data.shuffle_agents, balanced=cfg.data.balanced, mask=cfg.data.mask_agents, ids=layout.ids,
        random_ids=layout.random_ids, end_at_limits=cfg.data.end_at_limits,
        slots=tuple(layout.slots_of(family_of(task)) for task in train_tasks(cfg)) if layout.slots else (),
    )  # fmt: skip


def _vault_windows(
    cfg: Config, o: Outline
) -> tuple[Callable[..., Source], tuple[float, float] | None, list[float], int, list[FamilyColumns]]:
    """(rows, steps, **options) -> a source of windows; the support of values; per task, the unit of its rewards; the
    number of recorded steps; the columns that they never vary.
    """
    tasks, layout = train_tasks(cfg), o.layout
    envs = [make_env(task) for task in tasks]
    specs = [env.spec for env in envs]
    paths = find_vaults(cfg, tasks)
    mapped = exceeds_memory(cfg, paths)
    read = map_vault if mapped else vault.read_vault
    vaults = [subsample(read(p), cfg.data.fraction) for p in paths]
    for task, spec, v in zip(tasks, specs, vaults, strict=True):
        steps = len(v.recording.first)
        if steps < cfg.trainer.context:
            raise UserError(
                f"{v.path}: {steps} steps, fewer than trainer.context={cfg.trainer.context}; lower that or collect more"
            )
        shape = (v.recording.mask.shape[1], v.recording.obs.shape[2], v.recording.mask.shape[2])
        if shape != (spec.agents, spec.obs, spec.actions):
            raise UserError(
                f"{v.path}: holds (agents, observation, actions) {shape}, {task} has "
                f"{(spec.agents, spec.obs, spec.actions)}; collect it again"
            )
    support, units = None, [1.0] * len(tasks)
    if o.spec.learns_values:
        units = reward_units(vaults, [family_of(t) for t in tasks], o.settings.gamma)
        vaults = [in_units(v, unit) for v, unit in zip(vaults, units, strict=True)]
        support = value_support(vaults, o.settings.gamma)
    columns = []
    if o.spec.shuffles_slots:
        slots = {family: layout.slots_of(family) for family in layout.families}
        columns = unvaried_columns(vaults, envs, make_envs(list(o.test_envs)), slots)
    stored = replace(o.dims, obs=layout.known)
    constants, scale = [layout.constant(s) for s in specs], layout.constant_scale
    if mapped:
        memory, chunk = (cfg.data.memory_mb or 0) * 2**20, cfg.trainer.chunk * len(cfg.seeds or (0,))
        told = dict(constants=constants, constant_scale=scale)
        windows = partial(host_source, vaults, stored, chunk=chunk, memory=memory, **told)
    else:
        windows = partial(vault_source, make_task_data(vaults, stored, constants, scale))
    return windows, support, units, sum(len(v.recording.first) for v in vaults), columns


# ---------------------------------------------------------------------------------------------- records


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one."""
    root = Path(mtmarl.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def write_run(
    run_dir: Path, cfg: Config, kind: str, train: Sequence[str], test: Sequence[str], **more: Any
) -> dict[str, Any]:
    """run.json, the record of what runs here; written before anything else."""
    run_dir.mkdir(parents=True, exist_ok=True)
    spec = ALGOS[cfg.algo_name]
    record = {
        "kind": kind,
        "algo": cfg.algo_name,
        "title": spec.title,
        "acting": spec.acting(cfg.algo, 1.0 if kind == "collect" else cfg.evaluator.explore),
        "tasks": task_set_label(cfg),
        "train_tasks": list(train),
        "test_tasks": list(test),
        "seed": cfg.seed,
        "config": config.to_dict(cfg),
        "select_on": cfg.evaluator.select_on,
        "hardware": f"{sharding.describe()}, {os.cpu_count()} cores",
        "versions": {"mtmarl": mtmarl.__version__, "jax": jax.__version__},
        "streams": RULE,
        "commit": _commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **more,
    }
    write_json(run_dir / "run.json", record)
    return record


def make_sinks(cfg: Config, run_dir: Path, resume_step: int | None = None, unit: str = "updates") -> Sinks:
    run = {
        "algo": cfg.algo_name,
        "tasks": task_set_label(cfg),
        "seed": cfg.seed,
        "config": config.to_dict(cfg),
        "quiet": cfg.quiet,
        "unit": unit,
        "resume_step": -1 if resume_step is None else resume_step,
    }
    return open_sinks(cfg.sinks, run_dir, run)


def single_seeds(cfg: Config) -> list[Config]:
    """The configurations of runs with one seed each that this one stands for."""
    if cfg.seeds is None:
        return [cfg]
    under = lambda seed: None if cfg.run_dir is None else os.path.join(cfg.run_dir, f"seed_{seed}")
    return [replace(cfg, seed=s, seeds=None, run_dir=under(s)) for s in cfg.seeds]


def common_update(latest: Mapping[Path, Sequence[int]]) -> int | None:
    """The update from which runs can go on together, by the checkpoints that each of them has; None: from the start.

    Runs that were stopped while they saved differ by one checkpoint; the newest that all have is taken. Stopped while
    they saved their first, some have one and others none: all start anew, which replays the same numbers.
    """
    shared = set.intersection(*map(set, latest.values()))
    if shared:
        return max(shared)
    first = [[u for u in updates if u > 0] for updates in latest.values()]
    if [] in first and all(len(updates) <= 1 for updates in first):
        return None
    stand = ", ".join(f"{run_dir.name} at update {max(u, default=0):,}" for run_dir, u in latest.items())
    raise UserError(f"seeds= cannot go on with runs that share no checkpoint ({stand}); run each with seed=")


def differing_settings(
    earlier: Mapping[str, Any], cfg: Config, where: str, free: Sequence[str] = ()
) -> list[str]:
    """The keys in which a run.json differs from a configuration, but for what a continuation may change.

    free: further keys, or sections, that may differ.
    """
    # Parsed anew: what was not yet an option when the run began has its default.
    before = config.parse_recorded(earlier["config"], where)
    whole = lambda c: {**config.to_dict(c), "algo": config.to_dict(parse_algorithm(c, ALGOS)[1])}
    free = (*free, *without_use(earlier))
    keys = differing([deciding(whole(c), free) for c in (before, cfg)])
    # Another algorithm has settings of its own.
    return [k for k in keys if not k.startswith("algo.")] if "algo_name" in keys else keys


def read_origins(cfg: Config, tasks: Sequence[str]) -> dict[str, str]:
    """What a run is made of beside its settings, as SHA-256: the vaults of these tasks, and where it starts."""
    origins = {task: vault.identity(path) for task, path in zip(tasks, find_vaults(cfg, tasks), strict=True)}
    start = read_start(cfg)
    if start is not None:
        content = b"".join(f.read_bytes() for f in files_below(start.path))
        origins["init_from"] = hashlib.sha256(content).hexdigest()
    return origins


def changed_origins(earlier: Mapping[str, Any], cfg: Config) -> list[str]:
    """What differs now of what a run.json says that the run is made of; nothing where it does not say."""
    known = earlier.get("origins") or {}
    now = read_origins(cfg, [name for name in known if name != "init_from"]) if known else {}
    return [name for name in known if known[name] != now.get(name)]


def earlier_run(run_dir: Path, cfg: Config, free: Sequence[str] = ()) -> dict[str, Any] | None:
    """The run.json that lies in the directory, if any; it must be of the same configuration but for `free`."""
    earlier = read_run(run_dir)
    if earlier is None:
        return None
    different = differing_settings(earlier, cfg, str(run_dir / "run.json"), free)
    if different:
        raise UserError(
            f"{run_dir}: holds a run with other settings ({listed(different)}); "
            "give another run_dir, or remove this one"
        )
    changed = changed_origins(earlier, cfg)
    if changed:
        raise UserError(
            f"{run_dir}: holds a run that was made of other data ({listed(changed)}); "
            "give another run_dir, or remove this one"
        )
    return earlier


def start_run(run_dir: Path, cfg: Config, job: Job) -> dict[str, Any]:
    """Writes run.json, or goes on with the directory's earlier one."""
    earlier = earlier_run(run_dir, cfg)
    if earlier is not None:
        return earlier
    with only_writer(
        run_dir
    ):  # Of two commands that begin here at once, the second meets the record of the first.
        return earlier_run(run_dir, cfg) or _write_first(run_dir, cfg, job)


def warn_of_replay(run_dir: Path, record: Mapping[str, Any], done: int | None, updates: int) -> None:
    """Says so where a run goes on after update `done` with other random numbers than it began with."""
    if done is not None and 0 < done < updates and record.get("streams", 1) != RULE:
        terminal.say(
            f"{run_dir}: begun by a version that draws other random numbers; it goes on from update {done:,}, but does "
            "not replay bit for bit",
            error=True,
        )


def _write_first(run_dir: Path, cfg: Config, job: Job) -> dict[str, Any]:
    return write_run(
        run_dir, cfg, "train", list(job.train_envs), list(job.test_envs),
        parameters=job.parameters, updates=job.plan.updates, minutes=0.0, references=job.references,
        max_returns={task: env.spec.max_return for task, env in {**job.train_envs, **job.test_envs}.items()},
        dims={k: v for k, v in vars(job.dims).items() if k != "entities"},  # they follow from the layout
        layout=asdict(job.layout), value_range=job.value_range, dataset_steps=job.steps,
        columns=[asdict(c) for c in job.columns],
        start=start_record(cfg, job.start), origins=read_origins(cfg, list(job.train_envs) if job.steps else []),
    )  # fmt: skip


def start_record(cfg: Config, found: Matching | None) -> dict[str, Any] | None:
    """What a run began with, for its records."""
    start = read_start(cfg)
    if start is None or found is None:
        return None
    arrays = {"copied": list(found.params), "fresh": list(found.fresh), "unused": list(found.unused)}
    about = {"from": cfg.init_from, "which": cfg.which, "algo": start.cfg.algo_name}
    return {**about, "env_steps": start.env_steps, **arrays}


def describe(job: Job, run_dir: Path, done: int | None) -> str:
    """The lines before the first compile: what runs, on what, where it goes."""
    d, played = job.dims, job.env_steps(job.plan.updates)
    counts = {"recorded steps": job.steps, "env steps to play": played}
    data = [f"{count:,} {what}" for what, count in counts.items() if count]
    lines = [
        f"{sharding.describe()}: {job.parameters:,} parameters, {' and '.join(data)} of {d.tasks} "
        + ("task" if d.tasks == 1 else "tasks"),
        f"padded to {d.agents} agents, observations {d.obs}, actions {d.actions}"
        + (f"; values in [{job.value_range[0]:.2f}, {job.value_range[1]:.2f}]" if job.value_range else ""),
        *(w for c in job.columns if (w := c.warning())),
        f"run: {run_dir}" + (f", goes on from update {done:,}" if done else ""),
        "compiling …",
    ]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------- policies


@dataclass(frozen=True)
class Policy:
    """A saved policy. Acts on any task of its families, at any team size; `layout` says what it sees of one.

    `act(params, carry, observation, key, explore)` as in `types.Act`; `init_carry(batch_size, agents)` is the
    memory of a fresh episode, to be given again at every episode start.
    """

    params: Any
    act: Any
    init_carry: Any
    dims: Dims
    layout: Layout
    config: Config
    references: Mapping[str, Mapping[str, float]]


def load_policy(run: str | Path, which: str = "best") -> Policy:
    """The policy of a training run; `which`: best (on the training tasks) or last."""
    run_dir = Path(run).expanduser()
    record = read_run(run_dir)
    if record is None:
        raise UserError(f"{run_dir}: no run.json here; give the directory of a run of mtmarl.train")
    if record.get("kind") != "train":
        raise UserError(f"{run_dir}: a {record.get('kind')} run; give the directory of a run of mtmarl.train")
    cfg = config.parse_recorded(record["config"], str(run_dir / "run.json"))
    spec, settings = parse_algorithm(cfg, ALGOS)
    try:
        layout = Layout.from_record(record["layout"])
        sizes = {**record["dims"], "task_features": layout.task_features}
        dims = Dims(**sizes, entities=entities.of_layout(layout))
        low_high = record["value_range"]
        support = low_high and (float(low_high[0]), float(low_high[1]))
        _ = record["updates"], record["references"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = foreign.line(f"{type(error).__name__}: {error}")
        raise UserError(f"{run_dir / 'run.json'}: does not tell its policy ({reason}); restore it") from None
    algo = make_algorithm(spec, settings, dims, record["updates"], support)
    like = jax.eval_shape(algo.init, stream(0, Stream.PARAMETERS), example_batch(dims)).params
    params = load_params(run_dir / f"policy_{which}", like)
    return Policy(params, algo.act, algo.init_carry, dims, layout, cfg, record["references"])


def evaluate_policy(
    policy: Policy,
    tasks: str | Sequence[str],
    episodes: int = 320,
    seed: int = 0,
    explore: float | None = None,
) -> dict[str, EvalResult]:
    """Zero-shot scores on tasks of the policy's family, at their true team sizes.

    explore: 0 greedy … 1 sample; None: as its run was scored.
    """
    explore = policy.config.evaluator.explore if explore is None else explore
    raw = make_envs([tasks] if isinstance(tasks, str) else tasks)
    envs = {name: policy.layout.wrap(env) for name, env in raw.items()}
    evaluator = Evaluator(envs, policy.act, policy.init_carry, min(32, episodes), seed)
    return evaluator.evaluate(policy.params, 0, episodes, explore)
