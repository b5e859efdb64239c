"""Where the runs of a sweep run: as processes of this machine, or as the jobs of a Slurm cluster.

One YAML file in configs/launcher per place. The only module that knows submitit.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtmarl import config, divergence
from mtmarl.errors import UserError
from mtmarl.files import write_json
from mtmarl.foreign import redacted
from mtmarl.ranges import Count, Natural
from mtmarl.sweeps.local import TRAIN

POLL_SECONDS = 10.0
# How long a job may be unknown to the queue, which takes a while to know of a new one and forgets old ones.
LOST_SECONDS = 600.0
# States of a job that is still to run, or to run again, in Slurm's and submitit's words.
ALIVE = (
    "CONFIGURING", "COMPLETING", "PENDING", "PREEMPTED", "READY", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """One file of configs/launcher; what a kind does not use stays at its default.

    minutes: time limit of a job; memory_gb: per node; requeues: how often a job may reach its limit; setup: shell lines
    before it. `submitit`: which of its executors runs the jobs.
    """

    kind: Literal["local", "slurm"]
    partition: str | None = None
    account: str | None = None
    minutes: Count = 240
    nodes: Count = 1
    tasks_per_node: Count = 1
    gpus_per_node: Natural = 0
    cpus_per_task: Count = 4
    memory_gb: Count = 16
    requeues: Natural = 5
    setup: tuple[str, ...] = field(default_factory=tuple)
    submitit: Literal["slurm", "local"] = "slurm"

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


def read(name: str, overrides: Mapping[str, str] | None = None) -> Config:
    """The launcher of that name, with `overrides` in YAML's spelling. Raises UserError."""
    known = config.options("launcher")
    if name not in known:
        raise UserError(f"unknown launcher={name}{config.suggest(name, known)}")
    path = config.file_of("launcher", name)
    values = {**config.read_yaml(path), **{k: config.read_value(v) for k, v in (overrides or {}).items()}}
    found = config.parse(Config, values, f"configs/launcher/{name}.yaml or the command line", "launcher")
    for key, value in vars(found).items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and redacted(text) != text:
                raise UserError(
                    f"launcher.{key} holds a password, token or query, which would be recorded; let the job read it "
                    "from a file or the environment"
                )
    return found


@dataclass
class Train:
    """One run as a job. Cut short, it goes on from its own checkpoints, so it is queued again as it is."""

    command: tuple[str, ...]
    log: str

    def __call__(self) -> int:
        with open(self.log, "a", encoding="utf-8") as log:
            done = subprocess.run(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return done.returncode

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"launcher=slurm needs its extra: pip install 'mtmarl[slurm]' ({error})") from error
    return submitit


def _executor(settings: Config, folder: Path, jobs: int) -> Any:
    submitit = _submitit()
    try:
        executor = submitit.AutoExecutor(
            folder, cluster=settings.submitit, slurm_max_num_timeout=settings.requeues
        )
    except (RuntimeError, ValueError) as error:  # no srun here
        raise UserError(f"launcher=slurm: {error}; start it on a node that can submit jobs") from error
    slurm = {
        "array_parallelism": jobs,
        "partition": settings.partition,
        "account": settings.account,
        "setup": list(settings.setup) or None,
    }
    executor.update_parameters(
        name="mtmarl",
        timeout_min=settings.minutes,
        nodes=settings.nodes,
        tasks_per_node=settings.tasks_per_node,
        gpus_per_node=settings.gpus_per_node,
        cpus_per_task=settings.cpus_per_task,
        mem_gb=settings.memory_gb,
        **{f"slurm_{k}": v for k, v in slurm.items() if v is not None},
    )
    return executor


def execute(
    runs: Sequence[Mapping[str, Any]],
    out: Path,
    jobs: int,
    settings: Config,
    ended: Callable[[Mapping[str, Any]], None] = lambda run: None,
    poll: float = POLL_SECONDS,
) -> list[Mapping[str, Any]]:
    """Submits the runs that have neither ended nor a job, waits for all, and returns those that failed.

    `ended` is told of each run when its job has ended. Left early, the jobs go on; the ids lie in slurm/jobs.json, and
    the same call waits for them again.
    """
    folder, submitit = out / "slurm", _submitit()
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "jobs.json"
    ids: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    open_runs = [r for r in runs if not _finished(out, r)]
    job_of = submitit.SlurmJob if settings.submitit == "slurm" else submitit.LocalJob
    waiting = {
        r["dir"]: job_of(folder, ids[r["dir"]], tasks=list(range(settings.tasks)))
        for r in open_runs
        if r["dir"] in ids
    }
    waiting = {directory: job for directory, job in waiting.items() if not _ended(job, _state(job))}
    fresh = [r for r in open_runs if r["dir"] not in waiting]
    if fresh:
        executor = _executor(settings, folder, jobs)
        with executor.batch():
            submitted = [executor.submit(_train(r, out, settings)) for r in fresh]
        waiting |= {r["dir"]: job for r, job in zip(fresh, submitted, strict=True)}
        ids |= {r["dir"]: job.job_id for r, job in zip(fresh, submitted, strict=True)}
        write_json(record, ids)
    known, failed = {r["dir"]: r for r in open_runs}, []
    unknown: dict[str, float] = {}  # since when

    def lost(directory: str, state: str) -> bool:
        if state != "UNKNOWN":
            unknown.pop(directory, None)
            return False
        return time.monotonic() - unknown.setdefault(directory, time.monotonic()) >= LOST_SECONDS

    while waiting:
        states = {d: _state(job) for d, job in waiting.items()}
        gone = {d for d, state in states.items() if lost(d, state)}
        if gone:  # The next call submits them again.
            ids = {d: job_id for d, job_id in ids.items() if d not in gone}
            write_json(record, ids)
        for directory in [d for d, job in waiting.items() if d in gone or _ended(job, states[d])]:
            del waiting[directory]
            if not _finished(out, known[directory]):
                failed.append(known[directory])
            ended(known[directory])
        if waiting:
            time.sleep(poll)
    return failed


def _train(run: Mapping[str, Any], out: Path, settings: Config) -> Train:
    directory = out / run["dir"]
    directory.mkdir(parents=True, exist_ok=True)
    together = ("distributed=true",) if settings.tasks > 1 else ()
    return Train((*TRAIN, *run["argv"], *together), str(directory / "log.txt"))


def _state(job: Any) -> str:
    # Such as "CANCELLED by 1000" or "CANCELLED+".
    return (str(job.state).split() or ["UNKNOWN"])[0].rstrip("+")


def _ended(job: Any, state: str) -> bool:
    """Whether a job is over. One that the queue does not know is over only if it has left a result."""
    return state not in ALIVE and (state != "UNKNOWN" or job.paths.result_pickle.exists())


def _finished(out: Path, run: Mapping[str, Any]) -> bool:
    return divergence.ended(out / run["dir"])
