"""Where data live. The only file that says "device".

Parallelism is a placement: rows of a batch are split over a one-axis mesh, everything else is replicated,
and XLA inserts the reductions. Results do not depend on the number of devices.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


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
