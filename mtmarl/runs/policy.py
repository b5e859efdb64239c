"""The policies in the folders of runs: as a start of another run, and to act and be scored."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mtmarl import config, foreign
from mtmarl.algos import ALGOS, make_algorithm, parse_algorithm
from mtmarl.algos.base import Algorithm
from mtmarl.command_lines import command, line, word
from mtmarl.config import Config
from mtmarl.config.recorded import known_settings
from mtmarl.envs import entities
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.random_streams import Stream, stream
from mtmarl.runs.record import RUN, read_best, read_progress, read_run
from mtmarl.settings import NETWORK, free_keys
from mtmarl.training import loop
from mtmarl.training.checkpoint import Matching, load_matching, load_params, names
from mtmarl.training.evaluator import EvalResult, Evaluator
from mtmarl.types import Dims, TaskSpec, example_batch

if TYPE_CHECKING:
    from mtmarl.runs.agent import Agent


@dataclass(frozen=True)
class SavedRun:
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
        free = free_keys(type(theirs), NETWORK)
        differing = {k: v for k, v in vars(theirs).items() if k not in free and v != vars(ours)[k]}
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


def read_saved(cfg: Config) -> SavedRun | None:
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
    known = record.get("layout")
    earlier = recorded_config(record, run_dir)
    played = _env_steps(run_dir, record, earlier, cfg.which == "best")
    played += (record.get("start") or {}).get("env_steps", 0)
    tasks = record.get("train_tasks") or list(earlier.tasks.train)
    # What is collected is seen as it is: a run that begins with it has a layout of its own.
    layout = None if known is None or record.get("kind") == "collect" else Layout.from_record(known)
    return SavedRun(run_dir / f"policy_{cfg.which}", earlier, tasks, layout, played)


def recorded_config(record: Mapping[str, Any], run_dir: Path) -> Config:
    """The configuration that a run.json holds, with the settings of its algorithm as they are now. Raises UserError."""
    where = str(run_dir / RUN)
    cfg = config.parse_recorded(record["config"], where)
    if cfg.algo_name not in ALGOS:
        return cfg
    defaults = config.defaults(cfg.algo_name).get("algo") or {}
    return replace(cfg, algo=known_settings(ALGOS[cfg.algo_name].Config, cfg.algo, where, defaults, "algo."))


def _env_steps(run_dir: Path, record: Mapping[str, Any], cfg: Config, best: bool) -> int:
    """How many the best policy of a run had played, or its last."""
    if record.get("kind") != "collect":
        own = read_best(run_dir) if best else None
        counts = (own or {}).get("counts")
        return ((record.get("counts") if counts is None else counts) or {}).get("env_steps", 0)
    made = read_progress(run_dir)["evaluations"]
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


def start_record(cfg: Config, found: Matching | None) -> dict[str, Any] | None:
    """What a run began with, for its records."""
    start = read_saved(cfg)
    if start is None or found is None:
        return None
    arrays = {"copied": list(found.params), "fresh": list(found.fresh), "unused": list(found.unused)}
    about = {"from": cfg.init_from, "which": cfg.which, "algo": start.cfg.algo_name}
    return {**about, "env_steps": start.env_steps, **arrays}


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

    def agent(
        self,
        task: str | None = None,
        team: int | None = None,
        sample_probability: float = 0.0,
        seed: int = 0,
    ) -> "Agent":
        """Returns a team that acts with this policy in a loop of your own: `reset()`, then `act(obs, action_mask)`.

        task: whose observations it gets; default: the first training task. team: number of agents; default: as in the
        task. sample_probability: 0 greedy … 1 sample. Raises UserError where the task does not fit.
        """
        from mtmarl.runs.agent import Agent

        return Agent(self, task or self.config.tasks.train[0], team, sample_probability, seed)

    def __repr__(self) -> str:
        size = sum(x.size for x in jax.tree.leaves(self.params))
        tasks = self.config.tasks
        return f"Policy({self.config.algo_name}, {size:,} parameters, {tasks.name}: {len(tasks.train)} training tasks)"


def load_policy(run: str | Path, which: str = "best") -> Policy:
    """The policy of a run of training or collection; `which`: best (on the training tasks) or last."""
    run_dir = Path(run).expanduser()
    record = read_run(run_dir)
    if record is None:
        raise UserError(f"{run_dir}: no run.json here; give the directory of a run")
    cfg = recorded_config(record, run_dir)
    spec, settings = parse_algorithm(cfg, ALGOS)
    try:
        if record["kind"] == "collect":
            (task,) = record["train_tasks"]
            layout, dims = sizes_of_task(make_env(task).spec)
            updates, value_range = 1, None
        else:
            layout = Layout.from_record(record["layout"])
            sizes = {**record["dims"], "task_features": layout.task_features}
            dims = Dims(**sizes, entities=entities.of_layout(layout))
            updates, value_range = record["updates"], record["value_range"]
        references = record.get("references") or {}
        algo = make_algorithm(spec, settings, dims, updates, value_range)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = foreign.line(f"{type(error).__name__}: {error}")
        raise UserError(f"{run_dir / RUN}: does not tell its policy ({reason}); restore it") from None
    like = jax.eval_shape(algo.init, stream(0, Stream.PARAMETERS), example_batch(dims)).params
    params = load_params(run_dir / f"policy_{which}", like)
    return Policy(params, algo.act, algo.init_carry, dims, layout, cfg, references)


def sizes_of_task(spec: TaskSpec) -> tuple[Layout, Dims]:
    """The layout and sizes in which a task is collected: its own."""
    layout = Layout.of([spec])
    return layout, replace(spec.dims, entities=entities.of_layout(layout))


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
    evaluator = make_evaluator(policy, [tasks] if isinstance(tasks, str) else tasks, episodes, seed)
    return evaluator.evaluate(policy.params, 0, episodes, explore)


def make_evaluator(policy: Policy, tasks: Sequence[str], episodes: int, seed: int) -> Evaluator:
    """One compiled program a task, for any `explore`."""
    envs = {name: policy.layout.wrap(make_env(name)) for name in tasks}
    return Evaluator(envs, policy.act, policy.init_carry, min(32, episodes), seed)
