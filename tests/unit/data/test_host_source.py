"""Vaults that stay on disk: the same batches, and no more memory than is allowed."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recordings import make_vault, save

from mtmarl import build, config
from mtmarl.algos import mt_bc_sable
from mtmarl.algos.base import Algorithm, Phase, no_carry, random_act
from mtmarl.data import host_source as h
from mtmarl.data import sampling, vault
from mtmarl.data import sources as data_sources
from mtmarl.data.source import combine_phases, vault_source
from mtmarl.errors import UserError
from mtmarl.networks import sable
from mtmarl.training import loop
from mtmarl.types import Dims, Learner, example_batch

DIMS = Dims(agents=4, obs=7, actions=5, horizon=12, tasks=2)
CONSTANTS = [np.array([1, 0], np.int8), np.array([0, 1], np.int8)]
MB = 2**20


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("vaults")
    return [
        save(root, 0, "toy/a", steps=90, agents=2)[0],
        save(root, 1, "toy/b", steps=140, agents=4, actions=5)[0],
    ]


def batches(source, updates=4):
    """What a chunk of updates draws."""
    keys = jax.random.split(jax.random.key(3), updates)
    xs = None if source.prefetch is None else source.prefetch(0, keys)

    def one(state, x):
        key, brought = x
        return source.next(state, source.data, brought, None, key)

    return jax.lax.scan(one, source.init(jax.random.key(0)), (keys, xs))


@pytest.mark.parametrize("options", [{}, {"balanced": False, "ids": 4, "random_ids": True}, {"mask": False}])
def test_the_windows_are_those_of_the_device(paths, tmp_path, options):
    mapped = [h.map_vault(p, tmp_path) for p in paths]
    there = h.host_source(mapped, DIMS, 6, 5, chunk=4, memory=4 * MB, constants=CONSTANTS, **options)
    data = sampling.make_task_data([vault.read_vault(p) for p in paths], DIMS, CONSTANTS)
    want, got = batches(vault_source(data, 6, 5, **options)), batches(there)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_vault_is_unpacked_once_and_again_when_it_has_changed(tmp_path):
    path, recording = save(tmp_path, 0, "toy/c", steps=50)
    first = h.map_vault(path, tmp_path / "cache")
    jax.tree.map(np.testing.assert_array_equal, first.recording, recording)
    assert first.metadata == vault.read_vault(path).metadata
    h.map_vault(path, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    save(tmp_path, 1, "toy/c", steps=70)
    abandoned = next((tmp_path / "cache").iterdir()).with_suffix(".killed.part")
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    written = abandoned.with_suffix(".now.part")
    written.mkdir()
    assert len(h.map_vault(path, tmp_path / "cache").recording.first) == 70
    left = list((tmp_path / "cache").iterdir())
    assert len(left) == 2 and written in left, "what is no longer so is not kept"


def test_a_damaged_vault_is_refused_and_leaves_nothing(tmp_path):
    path, _ = save(tmp_path, 0, "toy/d", steps=50)
    about = path / vault.METADATA
    about.write_text(json.dumps({**json.loads(about.read_text()), "episodes": 1000}))
    with pytest.raises(UserError, match="episodes"):
        h.map_vault(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_sizes_are_known_before_anything_is_read(paths):
    for path in paths:
        whole = sum(column.nbytes for column in vault.read_vault(path).recording)
        assert h.stored_bytes(vault.read_metadata(path)) == whole


def resident(below) -> int:
    """Bytes in memory of all maps of files below a directory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = str(below) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize("name", ["", "no type", None])
def test_a_damaged_name_of_a_type_is_refused_in_one_line(paths, tmp_path, name):
    """`None`: it is missing. Sizes are counted before the arrays are read, and must not end in a traceback."""
    path = tmp_path / "damaged" / paths[0].relative_to(paths[0].parents[2])
    shutil.copytree(paths[0], path)
    metadata = json.loads((path / "metadata.json").read_text())
    if name is None:
        del metadata["structure_dtype"]["first"]
    else:
        metadata["structure_dtype"]["first"] = name
    (path / "metadata.json").write_text(json.dumps(metadata))
    for read in (h.map_vault, vault.read_vault):
        with pytest.raises(UserError):
            read(path)


def test_training_on_four_times_the_memory(tmp_path, monkeypatch):
    """What of the maps is resident is looked at whenever some of it is let go, which is when it is most."""
    memory, steps, agents = 3 * MB, 26_000, 4
    made = make_vault(0, "toy/big", steps=steps, agents=agents)
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 2, (steps, agents, 120)).astype(np.int8)
    metadata = {**made.metadata, "obs_scale": [1.0] * 120}
    path = vault.write_vault(tmp_path / "toy/big.vlt/replay", made.recording._replace(obs=obs), metadata)
    cache = tmp_path / "cache"
    mapped = h.map_vault(path, cache)
    assert sum(c.nbytes for c in mapped.recording) > 4 * memory

    dims = Dims(agents=agents, obs=120, actions=4, horizon=12)
    source = h.host_source([mapped], dims, 8, 5, chunk=2, memory=memory)
    seen, release = [], h.release

    def look(recording):
        seen.append(resident(cache))
        release(recording)

    monkeypatch.setattr(h, "release", look)
    algo = mt_bc_sable.make(mt_bc_sable.Config(1e-3, 1.0, sable.Config(16, 2, 1, 0.5)), dims)
    plan = loop.Plan(0, 20, 2, 20)
    state = loop.initial_state(algo, source, example_batch(dims), 0)
    state = loop.train(algo, {"default": source}, plan, state)
    assert int(state.source) == 20 and len(seen) >= 10
    assert 0 < max(seen) <= memory


def test_too_little_memory_is_an_error_that_says_how_much(paths, tmp_path):
    mapped = [h.map_vault(p, tmp_path) for p in paths]
    with pytest.raises(UserError, match=r"give at least (\d+)") as caught:
        h.host_source(mapped, DIMS, 64, 20, chunk=1000, memory=MB)
    enough = int(str(caught.value).split("at least ")[1].split(",")[0])
    h.host_source(mapped, DIMS, 64, 20, chunk=1000, memory=enough * MB)


def test_the_setting_decides(micro_vaults, monkeypatch, tmp_path):
    options = [
        "+algo=mt_bc_sable", "+tasks=micro", f"data.vault_dir={micro_vaults}", "trainer.context=5",
        "trainer.chunk=2", "trainer.batch_size=4", "trainer.updates=4", "trainer.checkpoint_every=4",
        "evaluator.every=4",
    ]  # fmt: skip
    offline = lambda *more: build.prepare(config.compose([*options, *more], "train"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert offline("data.memory_mb=1000").source.prefetch is None
    monkeypatch.setattr(data_sources, "stored_bytes", lambda metadata: 2**40)
    taken, host_source = [], data_sources.host_source
    keep = lambda vaults, *args, **more: taken.extend(vaults) or host_source(vaults, *args, **more)
    monkeypatch.setattr(data_sources, "host_source", keep)
    assert offline("data.memory_mb=1000").source.prefetch is not None
    assert taken and all(isinstance(column, np.memmap) for mapped in taken for column in mapped.recording)
    with pytest.raises(UserError, match="data.fraction"):
        offline("data.memory_mb=1000", "data.fraction=0.5")
    with pytest.raises(UserError, match="data.memory_mb must be at least 1"):
        offline("data.memory_mb=0")


def test_each_phase_counts_the_batches_of_its_own_source(paths, tmp_path):
    """A source that a later phase draws from begins at its first batch, also after a stop; rows left over go round."""
    mapped = [h.map_vault(p, tmp_path) for p in paths]
    bring = lambda rows: h.host_source(mapped, DIMS, rows, 5, chunk=3, memory=4 * MB)
    data = sampling.make_task_data([vault.read_vault(p) for p in paths], DIMS)
    update = lambda learner, batch, key: (
        learner._replace(step=learner.step + 1),
        {"rows": jnp.bincount(batch.task_id, length=2), "seen": batch.obs.sum(), "done": batch.action.sum()},
    )
    phases = tuple(
        Phase(n, f, update, s) for n, f, s in (("a", 0.25, "x"), ("b", 0.5, "y"), ("c", 0.25, "x"))
    )
    init = lambda key, batch: Learner((), (), {}, jnp.zeros((), jnp.int32))
    algo, plan = Algorithm(init, phases, random_act, no_carry), loop.Plan(0, 12, 3, 3)

    def run(make):
        sources, seen, states = combine_phases({"x": make(5), "y": make(3)}), [], {}
        log = lambda u, metrics: seen.append({k: v for k, v in metrics.items() if k != "updates_per_second"})
        start = loop.initial_state(algo, sources["x"], example_batch(DIMS), 0)
        keep = lambda state: states.setdefault(int(state.update), jax.device_get(state))
        loop.train(algo, sources, plan, start, log=log, save=keep)
        loop.train(algo, sources, plan, jax.device_put(states[6]), log=log)
        return seen

    want, got = run(lambda rows: vault_source(data, rows, 5)), run(bring)
    assert len(want) == 6 and want == got
    assert want[2:4] == want[4:]


@pytest.mark.parametrize("seeds", [(3, 7), (3,)])
def test_several_seeds_get_their_own_windows(paths, tmp_path, seeds):
    mapped = [h.map_vault(p, tmp_path) for p in paths]
    there = h.host_source(mapped, DIMS, 4, 5, chunk=4, memory=4 * MB)
    here = vault_source(sampling.make_task_data([vault.read_vault(p) for p in paths], DIMS), 4, 5)
    algo = mt_bc_sable.make(mt_bc_sable.Config(1e-3, 1.0, sable.Config(16, 2, 1, 0.5)), DIMS)
    plan = loop.Plan(seeds, 4, 2, 4)

    def run(source):
        state = loop.initial_state(algo, source, example_batch(DIMS), plan.seed)
        logs = [[] for _ in seeds]
        state = loop.train(
            algo, {"default": source}, plan, state, log=[lambda u, m, to=to: to.append(m) for to in logs]
        )
        return state.learner.params, [[m["bc/loss"] for m in seen] for seen in logs]

    (want, losses), (got, same) = run(here), run(there)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    assert len(seeds) == 1 or not np.allclose(losses[0], losses[1])
