"""What the folder of a run holds, with the types of its JSON files.

run.json        how the run was made: settings, tasks, versions; what it has done: `minutes`, `counts` and, of a
                collection, its `evaluations` and whether its vaults are `written`
best.json       score and update of the best checkpoint so far
final.json      scores of the best and of the last policy, once the run has finished
progress.json   where earlier versions kept what a collection had done
metrics.jsonl   metrics and evaluations, a line each
diverged.json   see `divergence`
policy_best/, policy_last/, checkpoints/   see `training.checkpoint`

A record of an earlier version lacks keys that were not recorded yet.
"""

from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from mtmarl import records
from mtmarl.ranges import Distinct, Natural, NotNegative, Range, Share

RUN, BEST, FINAL, PROGRESS, METRICS = "run.json", "best.json", "final.json", "progress.json", "metrics.jsonl"

Count = Annotated[int, Range(0, 2**63)]
Counts = dict[str, Count]
Axis = Annotated[int, Range(0, 2**16 - 1)]
Names = Annotated[list[str], Distinct()]


class Figures(TypedDict, total=False):
    """Returns that scores of a task are measured by."""

    reference: float | None
    random: float | None
    reference_standard_error: float | None
    random_standard_error: float | None
    final: float | None
    max_evaluation: float | None


class LayoutRecord(TypedDict, total=False):
    """`envs.layout.Layout` as JSON."""

    families: Required[list[str]]
    features: Required[Axis]
    actions: Required[Axis]
    ids: Axis
    random_ids: bool
    tasks: dict[str, list[Any]] | None
    slots: list[list[list[Any]]]


StartRecord = TypedDict(
    "StartRecord", {"from": str | None, "which": str, "algo": str | None, "env_steps": Count}, total=False
)


class _Acting(TypedDict, total=False):
    acting_temperature: float
    final_epsilon: float


class _Evaluator(TypedDict, total=False):
    explore: Share


class _Collect(TypedDict, total=False):
    evaluations: float


class Settings(TypedDict, total=False):
    """The configuration, as far as reports read it; `config.parse_recorded` reads all of it."""

    algo: _Acting
    evaluator: _Evaluator
    collect: _Collect


class RunRecord(TypedDict, total=False):
    config: Settings
    kind: str
    algo: str
    title: str | None
    acting: str | None
    label: str | None
    tasks: str
    train_tasks: Annotated[list[str], Distinct(1)]
    test_tasks: Names
    seed: Annotated[int, Range(0, 2**63)]
    select_on: str | None
    hardware: str | None
    versions: dict[str, str | None]
    streams: int
    commit: str | None
    started: str | None
    minutes: NotNegative
    parameters: Count | None
    updates: Natural
    counts: Counts | None
    counts_at: dict[str, Counts] | None
    references: dict[str, Figures | None]
    max_returns: dict[str, float | None]
    dataset_steps: Count | None
    origins: dict[str, str] | None
    start: StartRecord | None
    dims: dict[str, Axis | list[Axis]]
    layout: LayoutRecord | None
    value_range: tuple[float, float] | None
    evaluations: "list[Evaluation]"
    written: bool


class BestRecord(TypedDict, total=False):
    score: float
    update: Required[Annotated[int, Range(-1)]]
    counts: Counts | None


Score = TypedDict(
    "Score",
    {
        "return": Required[float | list[float]],
        "win_rate": Share | None,
        "normalised": float | None,
        "greedy_return": float | None,
        "episodes": Natural | None,
        "standard_error": NotNegative | None,
    },
    total=False,
)


class Scored(TypedDict, total=False):
    """Scores of one checkpoint. A report has mean returns in place of those of episodes."""

    step: int
    counts: Counts | None
    tasks: Required[dict[str, Score]]


class FinalRecord(TypedDict, total=False):
    best: Required[Scored]
    last: Required[Scored]


Evaluation = TypedDict(
    "Evaluation",
    {
        "return": Required[float],
        "update": Required[Natural],
        "greedy": float,
        "length": NotNegative,
        "win_rate": Share | None,
    },
    total=False,
)


class ProgressRecord(TypedDict, total=False):
    minutes: NotNegative
    evaluations: Required[list[Evaluation]]
    written: bool


def read_run(run_dir: Path) -> dict[str, Any] | None:
    """run.json; None where there is none. Raises UserError."""
    return records.read(run_dir / RUN, RunRecord, needs=("config",))


def read_best(run_dir: Path) -> dict[str, Any] | None:
    return records.read(run_dir / BEST, BestRecord)


def read_progress(run_dir: Path) -> dict[str, Any]:
    """What a collection has done: `minutes`, `evaluations`, and whether its vaults are `written`."""
    record = records.read(run_dir / RUN, RunRecord) or {}
    return (
        record
        if "evaluations" in record
        else records.read(run_dir / PROGRESS, ProgressRecord) or {"evaluations": []}
    )
