"""Runs whose arrays exceed all memory are refused before anything compiles, with the key to lower; others never."""

import jax
import pytest

from mtmarl import build, config, memory
from mtmarl.errors import UserError


def prepared(*words, monkeypatch=None, most=None):
    """A run of QMIX, which needs no vaults, on a machine of so many bytes."""
    if monkeypatch:
        monkeypatch.setattr(memory, "available", lambda: most)
    return build.prepare(config.compose(["+algo=qmix", "+tasks=micro", *words], "train"))


def test_what_this_machine_has():
    assert memory.available() > 2**28


def test_the_bound_is_below_what_the_run_takes(monkeypatch):
    words = ("algo.capacity=20000",)
    job = prepared(*words, monkeypatch=monkeypatch, most=float("inf"))
    taken = memory.size(job.initial_state(0))
    batch = memory.size(job.example) * 2**12
    prepared(*words, monkeypatch=monkeypatch, most=taken + batch)
    with pytest.raises(UserError):
        prepared(*words, monkeypatch=monkeypatch, most=taken / 2)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("algo.capacity=2000000000", "algo.capacity"), ("algo.network.embed_dim=16384", "algo.network.embed_dim"),
        ("algo.batch_size=1048576", "algo.batch_size"), ("evaluator.episodes=1048576", "evaluator.episodes"),
    ],
)  # fmt: skip
def test_the_key_to_lower_is_named(word, key, monkeypatch):
    monkeypatch.setattr(jax, "jit", None)  # Nothing compiles.
    with pytest.raises(UserError, match=f"^{key}: its arrays need .*; lower {key}$"):
        prepared(word, monkeypatch=monkeypatch, most=50e6)


def test_batches_of_vaults(micro_vaults, monkeypatch):
    cfg = config.compose(
        ["+algo=mt_bc_sable", "+tasks=micro", f"data.vault_dir={micro_vaults}", "trainer.batch_size=1048576"],
        "train",
    )
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    with pytest.raises(UserError, match="lower trainer.batch_size"):
        build.prepare(cfg)


@pytest.mark.parametrize("algo", ["sable", "mappo", "qmix"])
def test_collection(algo, monkeypatch):
    compose = lambda *more: config.compose([f"+algo={algo}", "+tasks=micro", *more], "collect")
    cfg = compose("collect.num_envs=1048576") if algo != "qmix" else compose("algo.capacity=2000000000")
    key = "algo.capacity" if algo == "qmix" else "collect.num_envs"
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    with pytest.raises(UserError, match=f"lower {key}"):
        build.prepare_collection(cfg, cfg.tasks.train[0])
    build.prepare_collection(compose(), cfg.tasks.train[0])
