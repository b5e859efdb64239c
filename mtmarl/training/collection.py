"""The collection of a task: a run of online training with a recorder.

At evenly spaced points the policy of the moment plays the same number of complete episodes into the recording, which
becomes a vault. What a vault root has of a task already, by these settings or by others, is left alone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mtmarl import config, divergence, terminal
from mtmarl.algos.base import no_carry, random_act
from mtmarl.config import Config
from mtmarl.data import features, recording, vault
from mtmarl.envs.registry import get_family
from mtmarl.errors import Diverged, UserError
from mtmarl.random_streams import Stream, stream
from mtmarl.runs import resume
from mtmarl.runs.identity import run_directory
from mtmarl.runs.policy import read_saved, say_start, start_record
from mtmarl.runs.record import read_progress
from mtmarl.settings import COLLECTION
from mtmarl.training import loop, sharding
from mtmarl.training.checkpoint import load_params, save_params
from mtmarl.training.evaluator import Evaluator
from mtmarl.training.job import Job
from mtmarl.training.run import LAST_EVALUATION, Run, train_together

# ------------------------------------------------------------------------------------- what is collected already


def qualities(cfg: Config) -> list[str]:
    """Names of the vaults that the recording of a task is written to."""
    return [cfg.data.quality, *(vault.SINGLE_POLICIES if cfg.collect.single_policies else ())]


def other_root(cfg: Config, task: str, record: bool, root: Path) -> Path | None:
    """Another of the default roots that has the vault and the reference of a task, as the shipped ones do."""
    for other in vault.default_roots():
        has = not record or vault.has_vault(vault.vault_path(other, task, cfg.data.quality))
        if other != root and has and task in vault.read_references(other):
            return other
    return None


def existing(cfg: Config, task: str, root: Path) -> list[str]:
    """Which of the vaults of a collection are there."""
    return [q for q in qualities(cfg) if vault.vault_path(root, task, q).exists()]


def collected(cfg: Config, task: str, root: Path) -> bool:
    """Whether a root has what a collection writes of a task, by these settings or by others."""
    there = existing(cfg, task, root)
    # A vault left out on purpose is no reason to write over the others.
    if task not in vault.read_references(root, [task]) or (cfg.collect.record and not there):
        return False
    # Vault and reference are of one collection: this one does not write over the vault of another alone.
    others = any(_of_another(vault.vault_path(root, task, q), cfg) for q in there)
    return others or not _interrupted(cfg, task)


def _interrupted(cfg: Config, task: str) -> bool:
    """Whether a collection with these settings was begun and has not written all it writes."""
    run_dir = _directory(cfg, task)
    try:
        begun = resume.earlier_run(run_dir, cfg, COLLECTION)
    except UserError:
        return False  # Of another collection.
    return begun is not None and begun["train_tasks"] == [task] and not read_progress(run_dir).get("written")


def _directory(cfg: Config, task: str) -> Path:
    return run_directory(cfg, f"collect/{cfg.algo_name}/{task}/seed_{cfg.seed}")


def _of_another(path: Path, cfg: Config) -> bool:
    if not vault.has_vault(path):
        return False
    of = vault.read_metadata(path).get("provenance", {})
    mine = {"algorithm": cfg.algo_name, "seed": cfg.seed}
    return any(key in of and of[key] != value for key, value in mine.items())


def check_own(path: Path) -> None:
    """Raises a UserError if a vault is there that no collection has written: it is not ours to write over."""
    if vault.has_vault(path) and "record_points" not in vault.read_metadata(path):
        raise UserError(
            f"{path}: a vault that was not collected here; give another data.quality or data.vault_dir, or remove it"
        )


# ---------------------------------------------------------------------------------------------------- collecting


def collect_task(cfg: Config, task: str, root: Path, prepare: Callable[[Config, str], Job]) -> None:
    """Trains on one task, and records it or only measures its reference return. `prepare` makes its job."""
    # Refused before anything is made, and before another collection of the task is waited for.
    earlier = resume.earlier_run(_directory(cfg, task), cfg, COLLECTION)
    _check_task(earlier, task, cfg)
    job = prepare(cfg, task)
    with vault.sole_collector(root, task):
        if collected(cfg, task, root):
            terminal.say(f"  collected meanwhile by another process, in {root}")
            return
        run = Collection(cfg, job, root)
        if run.diverged:
            raise Diverged(run.story)
        train_together([run], job)


def _check_task(record: Mapping[str, Any] | None, task: str, cfg: Config) -> None:
    if record is not None and record["train_tasks"] != [task]:
        held = ", ".join(record["train_tasks"])
        raise UserError(f"{_directory(cfg, task)}: holds a run of {held}; give another run_dir")


class Collection(Run):
    """A run of training on one task that also records it, and writes its vaults and reference return into `root`."""

    kind, purpose, unit = "collect", COLLECTION, "env steps"

    def __init__(self, cfg: Config, job: Job, root: Path):
        (self.task,), self.root = job.train_envs, root
        self.env = job.train_envs[self.task]
        c = cfg.collect
        self.recorder = recording.make_recorder(
            self.env, job.algo.act, job.algo.init_carry, c.record_episodes, c.explore
        )
        super().__init__(cfg, job)
        _check_task(self.record, self.task, cfg)
        progress = read_progress(self.directory)
        self.record = {"minutes": progress.get("minutes", 0.0), **self.record}
        self.evaluations: list[dict[str, Any]] = list(progress["evaluations"])
        self.recordings = self.directory / "recordings"
        self.points = [job.record_every * (i + 1) for i in range(c.record_points)] if c.record else []

    def place(self) -> Path:
        return _directory(self.cfg, self.task)

    def write_first(self, job: Job) -> dict[str, Any]:
        return resume.write_run(
            self.directory, self.cfg, self.kind, [self.task], [], parameters=job.parameters, minutes=0.0,
            start=start_record(self.cfg, job.start), origins=resume.read_origins(self.cfg, []),
        )  # fmt: skip

    def events(self) -> list[tuple[int, Callable[..., Mapping[str, float]]]]:
        return [*super().events(), *([(self.job.record_every, self.record_part)] if self.points else [])]

    def step(self, update: int) -> int:
        return update * self.cfg.collect.num_envs * self.cfg.collect.rollout_length

    def start(self, done: int | None) -> None:
        if done is not None:  # What is missing or damaged is told before training goes on.
            recording.load_points(self.recordings, [update for update in self.points if update <= done])
        super().start(done)

    def announce(self, done: int | None) -> None:
        terminal.say(f"  {self.step(self.job.plan.updates):,} env steps")
        if done is not None:
            terminal.say(f"  goes on from update {done} of {self.job.plan.updates}")
        elif self.job.start is not None:
            terminal.say(f"  {say_start(self.cfg, self.job.start)}")

    def diverge(self, found: divergence.Divergence) -> None:
        super().diverge(found._replace(task=self.task))

    def keep_progress(self, **more: Any) -> None:
        super().keep_progress(evaluations=self.evaluations, **more)

    def evaluate(self, params: Any, update: int) -> Mapping[str, float]:
        play = partial(self.evaluator.evaluate, params, update // self.job.evaluate_every)
        sampled, greedy = (play(self.cfg.collect.eval_episodes, share)[self.task] for share in (1.0, 0.0))
        for mean in (sampled.mean, greedy.mean):
            if not np.isfinite(mean):
                self.diverge(divergence.Divergence(update, "episode return", mean))
                return {}
        if sampled.mean >= max((e["return"] for e in self.evaluations), default=-np.inf):
            self.keep_best(sampled.mean, params, update)  # Of equals the later one, which has seen more.
        if self.cfg.collect.single_policies:
            (self.directory / "policies").mkdir(exist_ok=True)
            save_params(self.directory / "policies" / f"{update:08d}", params)
        entry = {
            "update": update,
            "return": sampled.mean,
            "greedy": greedy.mean,
            "length": float(sampled.length.mean()),
            "win_rate": sampled.win_rate(self.env.spec),
        }
        self.evaluations = [e for e in self.evaluations if e["update"] < update] + [entry]
        self.keep_progress()
        logged = {"return": sampled.mean, "greedy_return": greedy.mean} | {
            key: entry[key] for key in ("length", "win_rate") if entry[key] is not None
        }
        return {**{f"eval/{self.task}/{key}": x for key, x in logged.items()}, "minutes": self.minutes}

    def record_part(self, params: Any, update: int) -> Mapping[str, float]:
        # Events run after the last update as well, which may lie beyond the last point.
        if update in self.points:
            part = self.play(params, stream(self.cfg.seed, Stream.RECORDING, update), update)
            self.recordings.mkdir(exist_ok=True)
            # Written whole or not at all: a resumed run replays the point that was cut short.
            recording.save_point(self.recordings, update, part)
        return {}

    def play(self, params: Any, key: Any, update: int) -> vault.Recording:
        return recording.cut(self.recorder(params, key), self.step(update), self.env.obs_scale)

    def finish(self, state: loop.TrainState) -> None:
        """Writes the vaults and the reference return."""
        self.sinks.close()
        last = state.learner.params
        save_params(self.directory / "policy_last", last)
        figures, c = self.figures(last), self.cfg.collect
        if c.record:
            parts = recording.load_points(self.recordings, self.points)
            self.write_vault(self.cfg.data.quality, parts, self.points, figures)
        policies = single_policies(self.evaluations) if c.record and c.single_policies else {}
        for i, (quality, update) in enumerate(policies.items()):
            params = load_params(self.directory / "policies" / f"{update:08d}", last)
            keys = [stream(self.cfg.seed, Stream.SINGLE_POLICIES, i, j) for j in range(c.record_points)]
            self.write_vault(quality, [self.play(params, key, update) for key in keys], [update], figures)
        write_reference(self.root, self.task, figures)
        self.keep_progress(written=True)

    def figures(self, like: Any) -> dict[str, Any]:
        """Reference and random returns on fresh episodes: the maximum over evaluations would flatter."""
        cfg, out = self.cfg, {}
        best = load_params(self.directory / "policy_best", like)
        random = Evaluator({self.task: self.env}, random_act, no_carry, cfg.collect.eval_episodes, cfg.seed)
        for name, evaluator, params in (("reference", self.evaluator, best), ("random", random, ())):
            result = evaluator.evaluate(params, LAST_EVALUATION, cfg.evaluator.final_episodes)[self.task]
            out |= {name: result.mean, f"{name}_standard_error": result.standard_error}
        return out | {
            "final": self.evaluations[-1]["return"],
            "max_evaluation": max(e["return"] for e in self.evaluations),
            "algorithm": cfg.algo_name,
            "env_steps": self.step(self.job.plan.updates),
            "seed": cfg.seed,
            "minutes": round(self.minutes, 2),
        }

    def write_vault(
        self,
        quality: str,
        parts: Sequence[vault.Recording],
        updates: Sequence[int],
        figures: Mapping[str, Any],
    ) -> None:
        """`parts`: what was recorded of the policies after these updates, equally much of each."""
        spec, c, start = self.env.spec, self.cfg.collect, read_saved(self.cfg)
        package = get_family(spec.family).package
        obs, scale = features.join([part.obs for part in parts], self.env.obs_scale)
        vault.write_vault(
            vault.vault_path(self.root, self.task, quality),
            vault.concatenate([part._replace(obs=own) for part, own in zip(parts, obs, strict=True)]),
            {
                "task": self.task,
                "horizon": spec.horizon,
                "obs_scale": [float(x) for x in scale],
                **({package: version(package)} if package else {}),
                "returns": {k: figures[k] for k in ("reference", "random", "final", "max_evaluation")},
                "record_points": [self.step(update) for update in updates],
                "episodes_per_point": len(parts) // len(updates) * c.record_episodes,
                "provenance": {
                    "algorithm": self.cfg.algo_name,
                    "settings": dict(self.cfg.algo),
                    "collection": config.to_dict(c),
                    "hardware": sharding.describe(),
                    "seed": self.cfg.seed,
                    "starts_from": None if start is None else start.summary(),
                },
            },
        )


def write_reference(root: Path, task: str, figures: Mapping[str, Any]) -> None:
    """Scores are in units of the reference: that of another collection stays."""
    known = vault.read_references(root).get(task)
    if known is None or all(known.get(k) == figures[k] for k in ("algorithm", "seed", "env_steps")):
        vault.write_reference(root, task, figures)
        return
    terminal.say(
        f"  kept the reference return of {task}, {known.get('reference', float('nan')):.3f} of "
        f"{known.get('algorithm')}; this policy has {figures['reference']:.3f}: to count by that, remove "
        f"{vault.reference_file(root, task)} and give the same command again"
    )


def single_policies(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The updates after which the policy was best (expert), and nearest half as good as that (medium).

    By win rate or, where nothing is won, by how far the return rose above that of the first evaluation.
    """
    start = evaluations[0]["return"]
    won = any(e.get("win_rate") for e in evaluations)
    score = lambda e: e["win_rate"] if won else e["return"] - start
    expert = max(evaluations, key=lambda e: (score(e), e["update"]))
    medium = min(evaluations, key=lambda e: abs(score(e) - score(expert) / 2))
    return {"expert": expert["update"], "medium": medium["update"]}
