"""Every test runs on two CPU devices, with shapes in annotations checked at each call."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Nearly all the time goes into compiling programs that run once, which these flags make several times shorter.
# Training in tests gains by what they leave out: `make test-slow` sets them to nothing.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jaxtyping.install_import_hook("mtmarl", "beartype.beartype")

_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl-tests"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


MICRO_TASKS = ("lbf/5x5-2p-1f-t20", "lbf/6x6-3p-1f-t20")


@pytest.fixture(scope="session")
def micro_vaults(tmp_path_factory):
    """A vault root with random play on two tiny tasks, recorded as collection records."""
    from mtmarl.algos.base import no_carry, random_act
    from mtmarl.data import recording, vault
    from mtmarl.envs.registry import make_env

    root = tmp_path_factory.mktemp("vaults")
    for task in MICRO_TASKS:
        env = make_env(task)
        recorder = recording.make_recorder(env, random_act, no_carry, 64)
        part = recording.cut(recorder((), jax.random.key(0)), 0, env.obs_scale)
        path = vault.vault_path(root, task, "replay")
        metadata = {"task": task, "horizon": env.spec.horizon, "obs_scale": env.obs_scale.tolist()}
        vault.write_vault(path, part, metadata)
        vault.write_reference(root, task, {"reference": 0.5, "random": 0.1})
    return root
