"""A vault as plain NumPy or Parquet files, for those who work without JAX."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from mtmarl.data.describe import observation_layout
from mtmarl.data.vault import Vault
from mtmarl.errors import UserError

ROW_GROUP = 2**16


def columns(vault: Vault, scaled: bool) -> dict[str, np.ndarray]:
    """The leaves of a recording by name; `scaled`: observations as float32, as a network sees them."""
    out = dict(vault.recording._asdict())
    if scaled:
        out["obs"] = out["obs"].astype(np.float32) * np.asarray(vault.metadata["obs_scale"], np.float32)
    return out


def about(vault: Vault, scaled: bool) -> dict[str, Any]:
    """The metadata with the meaning of every feature."""
    layout = observation_layout(vault.metadata)
    return {**vault.metadata, "observation_layout": layout, "observations_are_scaled": scaled}


def export(vault: Vault, path: str | Path, scaled: bool = False) -> Path:
    """Writes all steps to `path`, by its ending: `.npz` (compressed NumPy) or `.parquet`; whole or not at all.

    .npz: one array per leaf, and `metadata`, JSON text. .parquet: one row per step, agents and features as nested
    lists of fixed length, the metadata as JSON under the schema's key `mtmarl`. A file that is there is refused.
    """
    path = Path(path).expanduser().resolve()
    writers = {".npz": _numpy, ".parquet": _parquet}
    if path.suffix not in writers:
        raise UserError(f"{path}: must end in {' or '.join(writers)}")
    if path.exists():
        raise UserError(f"{path}: is there already; move it away or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{uuid4().hex[:8]}{path.suffix}")
    try:
        writers[path.suffix](part, columns(vault, scaled), json.dumps(about(vault, scaled)))
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _numpy(path: Path, leaves: dict[str, np.ndarray], metadata: str) -> None:
    np.savez_compressed(path, metadata=np.asarray(metadata), **leaves)  # pyright: ignore[reportArgumentType]


def _parquet(path: Path, leaves: dict[str, np.ndarray], metadata: str) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'mtmarl[parquet]', or export to .npz") from None

    def nested(x: np.ndarray) -> Any:
        flat = pa.array(x.reshape(-1))
        for size in reversed(x.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat

    table = pa.table({name: nested(x) for name, x in leaves.items()}, metadata={"mtmarl": metadata})
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
