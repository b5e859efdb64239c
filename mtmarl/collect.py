"""`python -m mtmarl.collect +algo=sable +tasks=lbf_5`: trains each task online and records vaults.

Per task: online training in one compiled loop; at evenly spaced points the policy of the moment plays the same
number of complete episodes into the recording, so the data run from random to expert. Training tasks get a vault;
held-out tasks of the set get reference returns only. Everything is resumable: a finished task is left alone,
an interrupted one goes on from its last checkpoint.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mtmarl import config, divergence, stops, terminal
from mtmarl.errors import GOES_ON, Diverged, UserError, exit_with, failed
from mtmarl.files import only_writer, write_json
from mtmarl.runs.record import PROGRESS, read_progress

# Index of the final evaluation, whose start states are met in no other.
FINAL = 2**31 - 1


def main(argv: list[str] | None = None) -> int:
    try:
        cfg = config.compose(sys.argv[1:] if argv is None else argv, "collect")
        run(cfg)
    except (UserError, OSError) as error:
        return failed(error)
    return 0


def run(cfg: config.Config) -> None:
    """Collects every task of the set that is not there yet, one after another."""
    from mtmarl import build
    from mtmarl.data import vault
    from mtmarl.training import sharding

    if cfg.data.quality in vault.SINGLE_POLICIES:
        raise UserError(
            f"data.quality={cfg.data.quality}: the name of a vault of one policy's play, and this one is recorded all "
            "along training; add collect.single_policies=true for those, beside data.quality=replay"
        )
    sharding.start()
    root = Path(cfg.data.vault_dir).expanduser().resolve() if cfg.data.vault_dir else vault.own_root()
    jobs = [(task, cfg.collect.record) for task in build.train_tasks(cfg)] + [
        (task, False) for task in cfg.tasks.test
    ]
    for task, _ in jobs:
        build.make_env(task)  # A name that is wrong stops everything before the first hour is spent.
    diverged: list[str] = []
    for i, (task, record) in enumerate(jobs):
        if cfg.data.vault_dir is None and (holder := _holder(cfg, task, record, root)):
            terminal.say(f"[{i + 1}/{len(jobs)}] {task}: already collected in {holder}")
            continue
        there = _there(cfg, task, root)
        own = replace(cfg, collect=replace(cfg.collect, record=record))
        if cfg.run_dir is not None and len(jobs) > 1:
            own = replace(own, run_dir=f"{cfg.run_dir}/{task}")
        done = _collected(own, task, root)
        if not done and record:
            for quality in there:
                _check_own(vault.vault_path(root, task, quality))
        label = f"[{i + 1}/{len(jobs)}] {task}"
        if done:
            terminal.say(f"{label}: already collected in {root}{' as ' * bool(there)}{', '.join(there)}")
            lacking = [q for q in qualities(cfg) if record and q not in there]
            if lacking:
                terminal.say(
                    f"  not {', '.join(lacking)}, recorded along with training alone: give another data.vault_dir "
                    "to train anew"
                )
            continue
        terminal.say(label)
        try:
            collect_task(own, task, root)
        except Diverged as error:
            diverged.append(str(error))
            terminal.say(f"  {error}", error=True)
    if jobs:
        vault.update_manifest(root)
    if diverged:
        raise Diverged(f"{'; '.join(diverged)}; {divergence.ADVICE}")


def _holder(cfg: config.Config, task: str, record: bool, root: Path) -> Path | None:
    """Another of the default roots that has the vault and the reference of a task, as the shipped ones do."""
    from mtmarl.data import vault

    for other in vault.default_roots():
        has = not record or vault.has_vault(vault.vault_path(other, task, cfg.data.quality))
        if other != root and has and task in vault.read_references(other):
            return other
    return None


def _directory(cfg: config.Config, task: str) -> Path:
    from mtmarl import build

    return build.run_directory(cfg, f"collect/{cfg.algo_name}/{task}/seed_{cfg.seed}")


def _interrupted(cfg: config.Config, task: str) -> bool:
    """Whether a collection with these settings was begun and has not written all it writes."""
    from mtmarl import build

    run_dir = _directory(cfg, task)
    try:
        begun = build.earlier_run(run_dir, cfg, FREE_TO_CHANGE)
    except UserError:
        return False  # Of another collection.
    written = (read_progress(run_dir) or {}).get("written")
    return begun is not None and begun["train_tasks"] == [task] and not written


def _there(cfg: config.Config, task: str, root: Path) -> list[str]:
    from mtmarl.data import vault

    return [q for q in qualities(cfg) if vault.vault_path(root, task, q).exists()]


def _collected(cfg: config.Config, task: str, root: Path) -> bool:
    """Whether a root has what a collection writes of a task, by these settings or by others."""
    from mtmarl.data import vault

    there = _there(cfg, task, root)
    # A vault left out on purpose is no reason to write over the others.
    if task not in vault.read_references(root, [task]) or (cfg.collect.record and not there):
        return False
    # Vault and reference are of one collection: this one does not write over the vault of another alone.
    others = any(_of_another(vault.vault_path(root, task, q), cfg) for q in there)
    return others or not _interrupted(cfg, task)


def _of_another(path: Path, cfg: config.Config) -> bool:
    from mtmarl.data import vault

    if not vault.has_vault(path):
        return False
    of = vault.read_metadata(path).get("provenance", {})
    mine = {"algorithm": cfg.algo_name, "seed": cfg.seed}
    return any(key in of and of[key] != value for key, value in mine.items())


def _check_own(path: Path) -> None:
    """Raises a UserError if a vault is there that no collection has written: it is not ours to write over."""
    from mtmarl.data import vault

    if vault.has_vault(path) and "record_points" not in vault.read_metadata(path):
        raise UserError(
            f"{path}: a vault that was not collected here; give another data.quality or data.vault_dir, or remove it"
        )


def qualities(cfg: config.Config) -> list[str]:
    """Names of the vaults that the recording of a task is written to."""
    from mtmarl.data.vault import SINGLE_POLICIES

    return [cfg.data.quality, *(SINGLE_POLICIES if cfg.collect.single_policies else ())]


# What may change while a task is collected: tasks have a directory each, whatever set they are collected with.
FREE_TO_CHANGE = ("tasks", "data.vault_dir", "data.quality")


def collect_task(cfg: config.Config, task: str, root: Path) -> Mapping[str, Any]:
    """Trains on one task, records (or only measures) it, and returns its reference figures."""
    with ExitStack() as stack:
        return _collect_task(cfg, task, root, stack)


def _collect_task(cfg: config.Config, task: str, root: Path, stack: ExitStack) -> Mapping[str, Any]:
    from importlib.metadata import version

    from mtmarl import build
    from mtmarl.data import features, recording, vault
    from mtmarl.random_streams import Stream, stream
    from mtmarl.training import loop, sharding
    from mtmarl.training.checkpoint import Checkpoints, load_params, newest_whole, save_params

    c = cfg.collect
    run_dir = _directory(cfg, task)
    earlier = build.earlier_run(run_dir, cfg, FREE_TO_CHANGE)
    if earlier is not None and earlier["train_tasks"] != [task]:
        raise UserError(
            f"{run_dir}: holds a run of {', '.join(earlier['train_tasks'])}; give another run_dir"
        )
    job = build.online(cfg, task)
    if sharding.is_primary():
        stack.enter_context(only_writer(run_dir))
        stack.enter_context(vault.sole_collector(root, task))
        if _collected(cfg, task, root):
            terminal.say(f"  collected meanwhile by another process, in {root}")
            return vault.read_references(root, [task])[task]
        earlier = earlier or build.earlier_run(run_dir, cfg, FREE_TO_CHANGE)  # Begun meanwhile by another.
    parts = run_dir / "recordings"
    parts.mkdir(parents=True, exist_ok=True)
    if (line := divergence.read(run_dir)) is not None:
        raise Diverged(f"{run_dir}: {line}")
    algo, evaluator, plan, env = job.algo, job.evaluator, job.plan, job.env
    steps_per_update = c.num_envs * c.rollout_length
    began = time.time()
    progress_file = run_dir / PROGRESS
    progress = read_progress(run_dir) or {"minutes": 0.0, "evaluations": []}
    before = progress.get("minutes", 0.0)

    if earlier is None:
        build.write_run(
            run_dir, cfg, "collect", [task], [], parameters=job.parameters,
            start=build.start_record(cfg, job.start), origins=build.read_origins(cfg, []),
        )  # fmt: skip
    checkpoints = stack.enter_context(closing(Checkpoints(run_dir)))
    state = job.initial_state()
    newest = lambda updates: max(updates[0], default=None)
    done, states, damaged = newest_whole([(checkpoints, state)], newest)
    for line in damaged:
        terminal.say(f"  {line}; goes on from the one before, after update {done}", error=True)
    if earlier is not None and sharding.is_primary():
        build.warn_of_replay(run_dir, earlier, done, plan.updates)
    sinks = stack.enter_context(
        closing(
            build.make_sinks(cfg, run_dir, None if done is None else done * steps_per_update, "env steps")
        )
    )
    terminal.say(f"  {plan.updates * steps_per_update:,} env steps")
    sinks.start(plan.updates * steps_per_update, (done or 0) * steps_per_update)
    log = lambda update, metrics: sinks.log(update * steps_per_update, metrics)

    def diverged(i: int, found: divergence.Divergence) -> NoReturn:
        key = jax.random.key_data(stream(cfg.seed, Stream.DATA, max(found.update - 1, 0)))
        found = found._replace(task=task)
        if sharding.is_primary():
            divergence.write(run_dir, found, cfg.seed, key.tolist(), checkpoints.latest())
        raise Diverged(f"{run_dir}: {found.line}")

    def evaluate(update: int, params) -> Mapping[str, float]:
        index = update // job.evaluate_every
        sampled = evaluator.evaluate(params, index, c.eval_episodes, 1.0)[task]
        greedy = evaluator.evaluate(params, index, c.eval_episodes, 0.0)[task]
        for mean in (sampled.mean, greedy.mean):
            if not np.isfinite(mean):
                diverged(0, divergence.Divergence(update, "episode return", mean))
        progress["minutes"] = before + (time.time() - began) / 60
        best = max((e["return"] for e in progress["evaluations"]), default=-np.inf)
        if sampled.mean >= best:  # Of equals the later one, which has seen more.
            save_params(run_dir / "policy_best", params)
        if c.single_policies:
            (run_dir / "policies").mkdir(exist_ok=True)
            save_params(run_dir / "policies" / f"{update:08d}", params)
        entry = {
            "update": update,
            "return": sampled.mean,
            "greedy": greedy.mean,
            "length": float(sampled.length.mean()),
            "win_rate": sampled.win_rate(env.spec),
        }
        progress["evaluations"] = [e for e in progress["evaluations"] if e["update"] < update] + [entry]
        write_json(progress_file, progress)
        return {
            f"eval/{task}/return": sampled.mean,
            f"eval/{task}/greedy_return": greedy.mean,
            f"eval/{task}/length": entry["length"],
            **({} if entry["win_rate"] is None else {f"eval/{task}/win_rate": entry["win_rate"]}),
            "minutes": progress["minutes"],
        }

    points = [job.record_every * (i + 1) for i in range(c.record_points)]
    if done is not None and c.record:
        recording.load_points(parts, [update for update in points if update <= done])
    recorder = recording.make_recorder(env, algo.act, algo.init_carry, c.record_episodes, c.explore)

    def record_part(update: int, params) -> Mapping[str, float]:
        # Events run after the last update as well, which may lie beyond the last point.
        if update in points:
            key = stream(cfg.seed, Stream.RECORDING, update)
            part = recording.cut(recorder(params, key), update * steps_per_update, env.obs_scale)
            # Written whole or not at all: a resumed run replays the point that was cut short.
            recording.save_point(parts, update, part)
        return {}

    events = [loop.Event(job.evaluate_every, evaluate)]
    if c.record:
        events.append(loop.Event(job.record_every, record_part))
    if done is None and job.start is not None:
        terminal.say(f"  {build.say_start(cfg, job.start)}")
    if done is not None:
        state = states[0]
        terminal.say(f"  goes on from update {done} of {plan.updates}")
    with stops.awaited(run_dir, GOES_ON) as stop:
        state = loop.train(
            algo, job.sources, plan, state, events, log, lambda s: checkpoints.save(int(s.update), s),
            diverged=diverged, stop=stop,
        )  # fmt: skip
    sinks.close()

    figures = _figures(cfg, job, run_dir, task, progress, plan.updates * steps_per_update)
    start = build.read_start(cfg)

    def write(quality: str, recorded: list[vault.Recording], updates: list[int]) -> None:
        package = "jaxmarl" if env.spec.family == "smax" else "jumanji"
        obs, scale = features.join([part.obs for part in recorded], env.obs_scale)
        recorded = [part._replace(obs=own) for part, own in zip(recorded, obs, strict=True)]
        vault.write_vault(
            vault.vault_path(root, task, quality),
            vault.concatenate(recorded),
            {
                "task": task,
                "horizon": env.spec.horizon,
                "obs_scale": [float(x) for x in scale],
                package: version(package),
                "returns": {k: figures[k] for k in ("reference", "random", "final", "max_evaluation")},
                "record_points": [update * steps_per_update for update in updates],
                "episodes_per_point": len(recorded) // len(updates) * c.record_episodes,
                "provenance": {
                    "algorithm": cfg.algo_name,
                    "settings": dict(cfg.algo),
                    "collection": config.to_dict(c),
                    "hardware": sharding.describe(),
                    "seed": cfg.seed,
                    "starts_from": None if start is None else start.summary(),
                },
            },
        )

    if c.record:
        write(cfg.data.quality, recording.load_points(parts, points), points)
    if c.record and c.single_policies:
        for i, (quality, update) in enumerate(single_policies(progress["evaluations"]).items()):
            params = load_params(run_dir / "policies" / f"{update:08d}", state.learner.params)
            keys = [stream(cfg.seed, Stream.SINGLE_POLICIES, i, j) for j in range(c.record_points)]
            played = [
                recording.cut(recorder(params, key), update * steps_per_update, env.obs_scale) for key in keys
            ]
            write(quality, played, [update])
    _write_reference(root, task, figures)
    write_json(progress_file, {**progress, "written": True})
    return figures


def _write_reference(root: Path, task: str, figures: Mapping[str, Any]) -> None:
    """Scores are in units of the reference: that of another collection stays."""
    from mtmarl.data import vault

    known = vault.read_references(root).get(task)
    if known is None or all(known.get(k) == figures[k] for k in ("algorithm", "seed", "env_steps")):
        vault.write_reference(root, task, figures)
        return
    terminal.say(
        f"  kept the reference return of {task}, {known.get('reference', float('nan')):.3f} of "
        f"{known.get('algorithm')}; this policy has {figures['reference']:.3f}: to count by that, remove "
        f"{vault.reference_file(root, task)} and give the same command again",
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


def _figures(cfg, job, run_dir: Path, task: str, progress, played: int) -> dict[str, Any]:
    """Reference and random returns on fresh episodes: the maximum over evaluations would flatter."""
    from mtmarl.algos.base import no_carry, random_act
    from mtmarl.training.checkpoint import load_params
    from mtmarl.training.evaluator import Evaluator

    best = load_params(run_dir / "policy_best", job.initial_state().learner.params)
    random = Evaluator({task: job.env}, random_act, no_carry, cfg.collect.eval_episodes, cfg.seed)
    episodes, out = cfg.evaluator.final_episodes, {}
    for name, evaluator, params in (("reference", job.evaluator, best), ("random", random, ())):
        result = evaluator.evaluate(params, FINAL, episodes)[task]
        out |= {name: result.mean, f"{name}_standard_error": result.standard_error}
    evaluations = progress["evaluations"]
    return out | {
        "final": evaluations[-1]["return"],
        "max_evaluation": max(e["return"] for e in evaluations),
        "algorithm": cfg.algo_name,
        "env_steps": played,
        "seed": cfg.seed,
        "minutes": round(progress["minutes"], 2),
    }


if __name__ == "__main__":
    exit_with(main, GOES_ON)
