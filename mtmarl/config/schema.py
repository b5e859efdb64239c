"""The settings of a run, as frozen dataclasses. configs/config.yaml has the defaults and says what each one does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mtmarl.ranges import Count, Natural, Seed, Seeds, Share, Size, SomeShare
from mtmarl.settings import COLLECTION, EXPERIMENT, NO_RESULT, REPORTED, free


@dataclass(frozen=True)
class TrainerConfig:
    """`context` is the number of timesteps T of a window."""

    updates: Count
    chunk: Count
    batch_size: Size
    context: Size
    checkpoint_every: Count = field(metadata=free(EXPERIMENT, REPORTED))


@dataclass(frozen=True)
class EvaluatorConfig:
    """`every` counts updates; `episodes` and `final_episodes` are per task; explore: 0 greedy … 1 sample."""

    every: Count
    episodes: Size
    final_episodes: Size
    explore: Share = 1.0
    greedy_too: bool = field(default=False, metadata=NO_RESULT)
    select_on: Literal["train", "test"] = "train"


@dataclass(frozen=True)
class CollectConfig:
    """Online training and recording, per task. `single_policies`: also vaults of one policy each, expert and medium.

    explore: of what is recorded; 1: actions drawn from the policy, 0: greedy, as in the published data of SMAC.
    """

    env_steps: Count
    num_envs: Size
    rollout_length: Size
    evaluations: Size
    eval_episodes: Size
    record_points: Size
    record_episodes: Size
    record: bool
    single_policies: bool = False
    explore: Share = 1.0


@dataclass(frozen=True)
class DataConfig:
    """Where vaults lie, what of them is used, and how batches are made of it.

    end_at_limits: a step at which an episode was cut short counts as its end, as in the released code; else values
    learn nothing from it. The last four are the switches of the paper's ablations: random agent order per window,
    padded agents masked out, equal rows per task (else one random task per update), one-hot agent numbers in the
    observation. shuffle_slots: interchangeable objects (LBF's foods and other agents) stand in random slots of an
    observation, for algorithms that read it flat; runs from before this setting have them in their fixed order.
    """

    vault_dir: str | None = field(default=None, metadata=free(COLLECTION, EXPERIMENT, REPORTED))
    quality: str = field(default="replay", metadata=free(COLLECTION))
    download: bool = field(default=False, metadata=NO_RESULT)
    fraction: SomeShare = 1.0
    memory_mb: Count | None = field(default=None, metadata=NO_RESULT)
    end_at_limits: bool = False
    shuffle_agents: bool = True
    mask_agents: bool = True
    balanced: bool = True
    agent_ids: Literal["none", "fixed", "random"] = "none"
    shuffle_slots: bool = False


@dataclass(frozen=True)
class HubConfig:
    """Where vaults that are not on this machine come from; an address of `mtmarl.data.hub`."""

    url: str | None = None


@dataclass(frozen=True)
class TasksConfig:
    """A set of tasks: those trained on and those only evaluated on. `first` keeps the first k to train on.

    `start`: the index of the first task to train on; tasks follow in their order, and after the last comes the first.

    `hub` is the address of its vaults, where `hub.url` gives none.
    """

    name: str = ""
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    first: Count | None = None
    start: Natural = 0
    hub: str | None = field(default=None, metadata=NO_RESULT)


@dataclass(frozen=True)
class Config:
    """All that a command line needs. `algo` stays a plain mapping until `ALGOS[algo_name].Config` parses it."""

    seed: Seed = field(metadata=free(EXPERIMENT, REPORTED))
    trainer: TrainerConfig
    evaluator: EvaluatorConfig
    collect: CollectConfig
    data: DataConfig
    hub: HubConfig = field(default_factory=HubConfig, metadata=NO_RESULT)
    algo_name: str = ""
    algo: Mapping[str, Any] = field(default_factory=dict)
    tasks: TasksConfig = field(default_factory=TasksConfig, metadata=free(COLLECTION))
    sinks: tuple[str, ...] = field(default=("console", "jsonl", "marl_eval"), metadata=NO_RESULT)
    seeds: Seeds | None = field(default=None, metadata=free(EXPERIMENT, REPORTED))
    distributed: bool = field(default=False, metadata=NO_RESULT)
    run_dir: str | None = field(default=None, metadata=NO_RESULT)
    run: str | None = field(default=None, metadata=free(EXPERIMENT, REPORTED))
    which: Literal["best", "last"] = "best"
    # Reports compare the record of what a run began with.
    init_from: str | None = field(default=None, metadata=free(EXPERIMENT))
    quiet: bool = field(default=False, metadata=NO_RESULT)
