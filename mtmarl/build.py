"""The composition root: from a configuration to tasks, sources, algorithms, evaluators and sinks.

Derived sizes (padding, value support, steps) are computed here, printed, and never written back into a config.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mtmarl
from mtmarl import config, sharding, trainer
from mtmarl.algos import OFFLINE, ONLINE
from mtmarl.checkpoint import load_params
from mtmarl.config import Config
from mtmarl.data import vault
from mtmarl.data.host_source import host_source, map_vault, stored_bytes
from mtmarl.data.on_policy import on_policy_source
from mtmarl.data.replay import replay_source
from mtmarl.data.sampling import make_task_data, thin
from mtmarl.data.source import Source, vault_source
from mtmarl.envs import entities
from mtmarl.envs.layout import Layout, family_of
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.evaluator import EvalResult, Evaluator
from mtmarl.sinks import Sinks, open_sinks
from mtmarl.types import Dims, Env, example_batch

# The support of a value distribution reaches this share of the range beyond the returns in the data.
SUPPORT_MARGIN = 0.1


def train_tasks(cfg: Config) -> tuple[str, ...]:
    """The training tasks: the first k of the set where `tasks.first` says so."""
    return cfg.tasks.train[: cfg.tasks.first]


def task_set_label(cfg: Config) -> str:
    """How this task set is called in paths and reports."""
    name = cfg.tasks.name.replace("/", "-")
    return name if cfg.tasks.first is None else f"{name}-first{cfg.tasks.first}"


def run_directory(cfg: Config, default: str) -> Path:
    return Path(cfg.run_dir or Path("runs") / default).expanduser().resolve()


def make_envs(names: Sequence[str]) -> dict[str, Env]:
    return {name: make_env(name) for name in names}


def parse_algorithm(cfg: Config, known: Mapping[str, Any]) -> tuple[Any, Any]:
    """The module of the algorithm that is asked for and its parsed settings. `known`: OFFLINE or ONLINE."""
    if cfg.algo_name not in known:
        raise UserError(f"+algo={cfg.algo_name} does not run here; choose one of {', '.join(known)}")
    module = known[cfg.algo_name]
    return module, config.parse(
        module.Config, cfg.algo, f"configs/algo/{cfg.algo_name}.yaml or the command line"
    )


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
        hub.pull(address, places[0], missing, say=lambda line: None if cfg.quiet else print(line, flush=True))
    return [vault.find_vault(task, quality, roots, address) for task in tasks]


# ------------------------------------------------------------------------------------------------ online


@dataclass(frozen=True)
class OnlineJob:
    """Online training on one task."""

    env: Env
    algo: Any
    source: Source
    evaluator: Evaluator
    plan: trainer.Plan
    evaluate_every: int
    record_every: int
    seed: int

    @property
    def parameters(self) -> int:
        return parameter_count(jax.eval_shape(self.algo.init, jax.random.key(0), self.example).params)

    @property
    def sources(self) -> dict[str, Source]:
        return {phase.source: self.source for phase in self.algo.phases}

    @property
    def example(self):
        return example_batch(self.env.spec.dims)

    def initial_state(self, init_from: str | None) -> trainer.TrainState:
        """Fresh, or with the best policy of another run (the network does not know team sizes)."""
        state = trainer.initial_state(self.algo, self.source, self.example, self.seed)
        if init_from is None:
            return state
        params = load_params(Path(init_from) / "policy_best", state.learner.params)
        return state._replace(learner=state.learner._replace(params=params))


def online(cfg: Config, task: str) -> OnlineJob:
    """Everything to train `cfg.algo_name` on one task. All spans are rounded to whole chunks of updates."""
    c, env = cfg.collect, make_env(task)
    module, settings = parse_algorithm(cfg, ONLINE)
    per_update = c.num_envs * c.rollout_length
    updates = max(1, c.env_steps // per_update)
    # Evaluations and recordings fall on chunk borders: the chunk that wastes the fewest updates, longest first.
    spans = [max(1, updates // count) for count in (c.evaluations, c.record_points)]
    chunk = min(range(min(20, *spans), 0, -1), key=lambda n: max(sum(s % n for s in spans), n < 8))
    evaluate_every, record_every = (s // chunk * chunk for s in spans)
    updates = max(evaluate_every * c.evaluations, record_every * c.record_points)
    dims = replace(env.spec.dims, entities=entities.of_layout(Layout.of([env.spec])))
    algo = module.make(settings, dims, updates)
    played = (env, algo.act, algo.init_carry, c.num_envs, c.rollout_length, c.num_envs)
    if algo.phases[0].source == "replay":
        rows = settings.batch_size * settings.gradient_steps
        explore = partial(settings.explore, updates=updates)
        source = replay_source(*played, settings.capacity, rows, settings.context, explore)
    else:
        source = on_policy_source(*played)
    evaluator = Evaluator({task: env}, algo.act, algo.init_carry, c.eval_episodes, cfg.seed)
    plan = trainer.Plan(cfg.seed, updates, chunk, evaluate_every)
    return OnlineJob(env, algo, source, evaluator, plan, evaluate_every, record_every, cfg.seed)


# ----------------------------------------------------------------------------------------------- offline


@dataclass(frozen=True)
class OfflineJob:
    """Offline training on the vaults of a task set."""

    train_envs: dict[str, Env]
    test_envs: dict[str, Env]
    layout: Layout
    dims: Dims
    algo: Any
    source: Source
    evaluator: Evaluator
    plan: trainer.Plan
    references: dict[str, dict[str, float]]
    value_range: tuple[float, float] | None
    steps: int
    seed: int

    @property
    def parameters(self) -> int:
        return parameter_count(
            jax.eval_shape(self.algo.init, jax.random.key(0), example_batch(self.dims)).params
        )

    @property
    def example(self):
        return example_batch(self.dims)

    def split(self, task: str) -> str:
        return "train" if task in self.train_envs else "test"

    def normalised(self, task: str, value: float) -> float | None:
        """return / best online-Sable evaluation mean; None where no reference is known."""
        reference = self.references.get(task, {}).get("reference")
        return None if not reference else value / reference

    def summary(self, results: Mapping[str, EvalResult]) -> dict[str, dict[str, Any]]:
        """The form that sinks take."""
        return {
            task: {
                "return": r.episode_return.tolist(),
                "length": r.length.tolist(),
                "normalised": self.normalised(task, r.mean),
                "win_rate": r.win_rate((self.train_envs | self.test_envs)[task].spec),
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


def equal_returns(vaults: Sequence[vault.Vault], families: Sequence[str], gamma: float) -> list[vault.Vault]:
    """Of several families: rewards divided by the family's largest discounted return in these data, either sign.

    RWARE's returns are more than ten times LBF's, and one support and one temperature must serve both. A single
    family keeps its rewards.
    """
    if len(set(families)) == 1:
        return list(vaults)
    out = []
    for v, family in zip(vaults, families, strict=True):
        own = [w.recording for w, f in zip(vaults, families, strict=True) if f == family]
        largest = max(map(abs, vault.returns_to_go_range(own, gamma)))
        reward = (v.recording.reward / max(largest, 1e-6)).astype(np.float32)
        out.append(v._replace(recording=v.recording._replace(reward=reward)))
    return out


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


def offline(cfg: Config) -> OfflineJob:
    """Everything to train on vaults. All checks are made here, before anything compiles."""
    module, settings = parse_algorithm(cfg, OFFLINE)
    tasks = train_tasks(cfg)
    raw_train, raw_test = make_envs(tasks), make_envs([t for t in cfg.tasks.test if t not in tasks])
    specs = [e.spec for e in raw_train.values()]
    largest_team = max(e.spec.agents for e in (*raw_train.values(), *raw_test.values()))
    layout = Layout.of(specs, cfg.data.agent_ids, largest_team)
    train_envs, test_envs = (
        {name: layout.wrap(env) for name, env in envs.items()} for envs in (raw_train, raw_test)
    )
    agents, horizon = max(s.agents for s in specs), max(s.horizon for s in specs)
    dims = Dims(agents, layout.obs, layout.actions, horizon, len(specs), entities.of_layout(layout))
    plan = trainer.Plan(cfg.seed, cfg.trainer.updates, cfg.trainer.chunk, cfg.trainer.checkpoint_every)
    trainer.check_plan(plan, [trainer.Event(cfg.evaluator.every, lambda s: {})])
    paths = find_vaults(cfg, tasks)
    mapped = exceeds_memory(cfg, paths)
    read = map_vault if mapped else vault.read_vault
    vaults = [thin(read(p), cfg.data.fraction) for p in paths]
    for task, v in zip(tasks, vaults, strict=True):
        spec = raw_train[task].spec
        shape = (v.recording.mask.shape[1], v.recording.obs.shape[2], v.recording.mask.shape[2])
        if shape != (spec.agents, spec.obs, spec.actions):
            raise UserError(
                f"{v.path}: holds (agents, observation, actions) {shape}, {task} has "
                f"{(spec.agents, spec.obs, spec.actions)}; collect it again"
            )
    support = None
    if hasattr(settings, "gamma"):
        vaults = equal_returns(vaults, [family_of(t) for t in tasks], settings.gamma)
        support = value_support(vaults, settings.gamma)
    algo = module.make(settings, dims, support)
    stored = replace(dims, obs=layout.known)
    constants = [layout.constant(family_of(t)) for t in tasks]
    window = (cfg.trainer.batch_size, cfg.trainer.context)
    options = dict(
        shuffle=cfg.data.shuffle_agents, balanced=cfg.data.balanced, mask=cfg.data.mask_agents, ids=layout.ids,
        random_ids=layout.random_ids,
    )  # fmt: skip
    if mapped:
        memory, chunk = (cfg.data.memory_mb or 0) * 2**20, cfg.trainer.chunk * len(cfg.seeds or (0,))
        source = host_source(
            vaults, stored, *window, chunk=chunk, memory=memory, constants=constants, **options
        )
    else:
        source = vault_source(make_task_data(vaults, stored, constants), *window, **options)
    evaluator = Evaluator(
        {**train_envs, **test_envs}, algo.act, algo.init_carry, cfg.evaluator.episodes, cfg.seed
    )
    references: dict[str, dict[str, float]] = {}
    for root in vault_roots(cfg) or vault.default_roots():
        references = {**vault.read_references(root), **references}
    known = {t: references[t] for t in (*train_envs, *test_envs) if t in references}
    steps = sum(len(v.recording.first) for v in vaults)
    return OfflineJob(
        train_envs, test_envs, layout, dims, algo, source, evaluator, plan, known, support, steps, cfg.seed
    )


# ---------------------------------------------------------------------------------------------- records


def write_json(path: Path, record: Any) -> None:
    """Whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(part, path)


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
    record = {
        "kind": kind,
        "algo": cfg.algo_name,
        "tasks": task_set_label(cfg),
        "train_tasks": list(train),
        "test_tasks": list(test),
        "seed": cfg.seed,
        "config": config.to_dict(cfg),
        "select_on": cfg.evaluator.select_on,
        "hardware": f"{sharding.describe()}, {os.cpu_count()} cores",
        "versions": {"mtmarl": mtmarl.__version__, "jax": jax.__version__},
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
        "resume_step": resume_step,
    }
    return open_sinks(cfg.sinks, run_dir, run)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# What may differ between a run and its continuation: what is seen of it, and where its data come from.
_FREE_TO_CHANGE = ("sinks", "quiet", "run_dir", "hub", "distributed")
_FREE_WITHIN = {"data": ("download", "memory_mb"), "tasks": ("hub",)}


def single_seeds(cfg: Config) -> list[Config]:
    """The configurations of runs with one seed each that this one stands for."""
    if cfg.seeds is None:
        return [cfg]
    under = lambda seed: None if cfg.run_dir is None else os.path.join(cfg.run_dir, f"seed_{seed}")
    return [replace(cfg, seed=s, seeds=None, run_dir=under(s)) for s in cfg.seeds]


def common_update(latest: Mapping[Path, Sequence[int]]) -> int | None:
    """The update from which runs can go on together, by the checkpoints that each of them has; None: from the start.

    Runs that were stopped while they saved differ by one checkpoint; the newest that all have is taken.
    """
    shared = set.intersection(*map(set, latest.values()))
    if shared:
        return max(shared)
    if all(max(updates, default=0) == 0 for updates in latest.values()):
        return None
    stand = ", ".join(f"{run_dir.name} at update {max(u, default=0):,}" for run_dir, u in latest.items())
    raise UserError(f"seeds= cannot go on with runs that share no checkpoint ({stand}); run each with seed=")


def earlier_run(run_dir: Path, cfg: Config) -> dict[str, Any] | None:
    """The run.json that lies in the directory, if any; it must be of the same configuration."""
    earlier = read_json(run_dir / "run.json")
    if earlier is None:
        return None
    strip = lambda d, free: {k: v for k, v in d.items() if k not in free}
    # Parsed anew: what was not yet an option when the run began has its default.
    before = config.parse(Config, earlier["config"], str(run_dir / "run.json"))
    old, new = (
        {
            k: strip(v, _FREE_WITHIN[k]) if k in _FREE_WITHIN else v
            for k, v in strip(config.to_dict(c), _FREE_TO_CHANGE).items()
        }
        for c in (before, cfg)
    )
    differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if differing:
        raise UserError(
            f"{run_dir}: holds a run with other settings ({', '.join(differing)}); "
            "give another run_dir, or remove this one"
        )
    return earlier


def start_run(run_dir: Path, cfg: Config, job: OfflineJob) -> dict[str, Any]:
    """Writes run.json, or goes on with the directory's earlier one."""
    earlier = earlier_run(run_dir, cfg)
    if earlier is not None:
        return earlier
    return write_run(
        run_dir, cfg, "train", list(job.train_envs), list(job.test_envs),
        parameters=job.parameters, updates=job.plan.updates, minutes=0.0, references=job.references,
        dims={k: v for k, v in vars(job.dims).items() if k != "entities"},  # they follow from the layout
        layout=asdict(job.layout), value_range=job.value_range, dataset_steps=job.steps,
    )  # fmt: skip


def describe(job: OfflineJob, run_dir: Path, done: int | None) -> str:
    """The lines before the first compile: what runs, on what, where it goes."""
    d = job.dims
    lines = [
        f"{sharding.describe()}: {job.parameters:,} parameters, {job.steps:,} recorded steps of {d.tasks} tasks",
        f"padded to {d.agents} agents, observations {d.obs}, actions {d.actions}"
        + (f"; values in [{job.value_range[0]:.2f}, {job.value_range[1]:.2f}]" if job.value_range else ""),
        f"run: {run_dir}" + (f", goes on from update {done:,}" if done else ""),
        "compiling …",
    ]
    return "\n".join(lines)


def score(summary: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> float:
    """The mean normalised return over tasks, plain returns where a task has no reference."""
    values = [
        s["normalised"] if s["normalised"] is not None else float(np.mean(s["return"]))
        for s in (summary[t] for t in tasks)
    ]
    return float(np.mean(values))


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
    record = read_json(run_dir / "run.json")
    if record is None:
        raise UserError(f"{run_dir}: no run.json here; give the directory of a run of mtmarl.train")
    if record.get("kind") != "train":
        raise UserError(f"{run_dir}: a {record.get('kind')} run; give the directory of a run of mtmarl.train")
    cfg = config.load(run_dir / "run.json")
    module, settings = parse_algorithm(cfg, OFFLINE)
    layout = Layout(**{**record["layout"], "families": tuple(record["layout"]["families"])})
    dims = Dims(**record["dims"], entities=entities.of_layout(layout))
    algo = module.make(settings, dims, record["value_range"] and tuple(record["value_range"]))
    like = jax.eval_shape(algo.init, jax.random.key(0), example_batch(dims)).params
    params = load_params(run_dir / f"policy_{which}", like)
    return Policy(params, algo.act, algo.init_carry, dims, layout, cfg, record["references"])


def evaluate_policy(
    policy: Policy, tasks: str | Sequence[str], episodes: int = 320, seed: int = 0, explore: float = 1.0
) -> dict[str, EvalResult]:
    """Zero-shot scores on tasks of the policy's family, at their true team sizes."""
    raw = make_envs([tasks] if isinstance(tasks, str) else tasks)
    envs = {name: policy.layout.wrap(env) for name, env in raw.items()}
    evaluator = Evaluator(envs, policy.act, policy.init_carry, min(32, episodes), seed)
    return evaluator.evaluate(policy.params, 0, episodes, explore)
