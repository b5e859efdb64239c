"""Placement of arrays on devices. The only module that names devices.

Batches are split by row over a one-axis mesh, large data along their steps. Everything else is replicated, and XLA
inserts the reductions. Results do not depend on the number of devices or processes.
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

# Larger data arrays are split over the devices, which then exchange windows.
SPLIT_BYTES = 2**30


def start(distributed: bool = False) -> None:
    """Configures the process; a command line calls it once. Enables the persistent compilation cache.

    The cache is in $JAX_COMPILATION_CACHE_DIR or the user's cache folder. distributed: this is one of several
    processes of one run, connected by Slurm or by $JAX_COORDINATOR_ADDRESS (host:port), $JAX_NUM_PROCESSES and
    $JAX_PROCESS_ID. Raises UserError if they cannot connect.
    """
    if distributed and not jax.distributed.is_initialized():
        _join()
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A run compiles about a hundred small programs, which together take seconds.
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
            f"distributed=true: the processes cannot connect ({str(error).splitlines()[0]}); "
            f"start them with Slurm, or set {', '.join(names)} for each"
        ) from error


def is_primary() -> bool:
    """Returns whether this process writes records and prints."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """A barrier over all processes of the run."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def on_any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process. It is a collective call: all processes must make it."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def on_this_process(tree: Any) -> Any:
    """Returns replicated arrays as local arrays of this process."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)


def make_mesh(devices: int | None = None) -> Mesh:
    """Returns a mesh over all devices, or over the first `devices`."""
    return jax.make_mesh(
        (devices or jax.device_count(),),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[: devices or jax.device_count()],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, rows: int) -> NamedSharding:
    """Returns a sharding of rows over the mesh; replicated if they do not divide evenly."""
    even = rows % mesh.size == 0
    return NamedSharding(mesh, PartitionSpec("data") if even else PartitionSpec())


def place_data(data: Any, mesh: Mesh, limit: int = SPLIT_BYTES) -> Any:
    """Replicates loop-invariant data. Arrays above `limit` bytes are split along their first axis instead.

    Split arrays are zero-padded to a multiple of the number of devices; the padding is never indexed.
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
    """Runs small programs on the CPU, so that they do not queue behind programs on an accelerator."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU.
        return nullcontext()


def describe() -> str:
    """Returns a description such as "2 × cpu"."""
    kind = jax.devices()[0].device_kind
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} × {kind}{processes}"
