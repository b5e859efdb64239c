"""Where data live. The only file that says "device".

Parallelism is a placement: rows of a batch are split over a one-axis mesh, large data along their steps,
everything else is replicated, and XLA inserts the reductions. Results do not depend on the number of devices, nor of
the processes that drive them.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mtmarl.errors import UserError

# A column of the data that takes more is split over the devices: then they exchange windows instead of holding all.
SPLIT_BYTES = 2**30


def start(distributed: bool = False) -> None:
    """Settings of the whole process, made once by a command line: compiled programs are kept between runs.

    They lie in `$JAX_COMPILATION_CACHE_DIR`, or in the user's cache directory. `distributed`: this is one of several
    processes of one run, which find each other by Slurm, or by $JAX_COORDINATOR_ADDRESS (host:port),
    $JAX_NUM_PROCESSES and $JAX_PROCESS_ID. Raises UserError where they cannot.
    """
    if distributed and not jax.distributed.is_initialized():
        _join()
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A start compiles a hundred small programs besides the large ones; together they take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _join() -> None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, own = (os.environ.get(name) for name in names)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if address and count and own:
            jax.distributed.initialize(address, int(count), int(own))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"distributed=true: the processes do not find each other ({str(error).splitlines()[0]}); "
            f"start them by Slurm, or give each {', '.join(names)}"
        ) from error


def is_primary() -> bool:
    """Whether this process is the one that writes records and talks."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns once every process of the run has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def on_any_process(flag: bool) -> bool:
    """Whether the flag is set on one of the processes of the run; each must ask as often as the others."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def on_this_process(tree: Any) -> Any:
    """Replicated values as ones of this process alone."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


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


def place_data(data: Any, mesh: Mesh, limit: int = SPLIT_BYTES) -> Any:
    """Loop-invariant data on all devices: whole on each, but arrays above `limit` bytes split along their first axis.

    Those are filled up with zeros where they do not divide evenly; nothing indexes what is filled up.
    """
    if mesh.size == 1:
        return data

    def place(x):
        if x.nbytes <= limit:
            return jax.device_put(np.asarray(x), replicated(mesh))
        missing = -x.shape[0] % mesh.size
        filled = np.pad(np.asarray(x), [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return jax.device_put(filled, NamedSharding(mesh, PartitionSpec("data")))

    return jax.tree.map(place, data)


def on_host() -> AbstractContextManager:
    """Inside, small programs run on the host's own processor, and do not queue behind what an accelerator is doing."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # a process that was told to use nothing but the accelerator
        return nullcontext()


def describe() -> str:
    """For people and run records: "2 × cpu"."""
    kind = jax.devices()[0].device_kind
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} × {kind}{processes}"
