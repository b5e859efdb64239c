"""Every test runs on two CPU devices, with shapes in annotations checked at each call."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping

jax.config.update("jax_num_cpu_devices", 2)
jaxtyping.install_import_hook("mtmarl", "beartype.beartype")

_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl-tests"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
