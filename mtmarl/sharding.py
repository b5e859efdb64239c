"""Where data live. The only file that says "device".

Parallelism is a placement: rows of a batch are split over a one-axis mesh, everything else is replicated,
and XLA inserts the reductions. Results do not depend on the number of devices.
"""

import os
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def start() -> None:
    """Settings of the whole process, made once by a command line: compiled programs are kept between runs.

    They lie in `$JAX_COMPILATION_CACHE_DIR`, or in the user's cache directory.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over all devices, or over the first few."""
    return jax.make_mesh(
        (devices or jax.device_count(),),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[: devices or jax.device_count()],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, rows: int) -> NamedSharding:
    """Rows over the mesh; replicated if they do not divide evenly."""
    even = rows % mesh.size == 0
    return NamedSharding(mesh, PartitionSpec("data") if even else PartitionSpec())


def describe() -> str:
    """For people and run records: "2 × cpu"."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} × {kind}"
