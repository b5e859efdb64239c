"""Measures updates on an accelerator: `python bench/accelerator.py [--sizes 64 256 768] [--batches 64 1024 4096]`.

Prints updates and tokens per second and the share of the measured matrix-product peak, in float32 and bfloat16, for
several embedding widths and batch sizes, and the three most expensive operations of the largest setting, from a trace.
Settings that do not fit into memory are named and skipped.
"""

import argparse
import collections
import glob
import gzip
import json
import tempfile

import jax
from update import make_algorithm, matmul_peak, measure, random_data

from mtmarl.data.source import vault_source
from mtmarl.training import loop, sharding
from mtmarl.types import example_batch

GOAL, AGENTS, CONTEXT, CHUNK = 0.35, 4, 20, 50


def largest_costs(embed_dim: int, batch: int, dtype: str, count: int = 3) -> list[tuple[str, float]]:
    """Returns the most expensive operations of one chunk and their shares of the traced device time."""
    algo, dims = make_algorithm("mt_oryx", embed_dim, AGENTS, dtype)
    source, plan = vault_source(random_data(AGENTS), batch, CONTEXT), loop.Plan(0, 10**6, CHUNK, 10**6)
    chunk = loop.make_chunk(algo.phases[0], source, plan)
    state, _ = chunk(loop.initial_state(algo, source, example_batch(dims), 0), source.data, None)
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            jax.block_until_ready(chunk(state, source.data, None))
        (file,) = glob.glob(f"{folder}/**/perfetto_trace.json.gz", recursive=True)
        with gzip.open(file) as opened:
            events = json.load(opened)["traceEvents"]
    # Device events only: the host is waiting.
    names = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    spent: collections.Counter[str] = collections.Counter()
    for e in events:
        if e.get("ph") == "X" and "device" in names.get(e["pid"], "").lower():
            spent[e["name"].split(".")[0]] += e["dur"]
    total = sum(spent.values())
    return [(name, duration / total) for name, duration in spent.most_common(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512, 768])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args()
    print(f"{sharding.describe()}; MT Oryx, T={CONTEXT}, N={AGENTS}\n", flush=True)
    peaks = {dtype: matmul_peak(8192, dtype) for dtype in args.dtypes}
    print("; ".join(f"{d} 8192^3 product: {p / 1e12:.1f} TFLOP/s" for d, p in peaks.items()), "\n")
    print(
        "| E | B | dtype | updates/s | Mtokens/s | share of peak | goal |\n|---:|---:|---|---:|---:|---:|---:|"
    )
    fits = {}
    for embed_dim in args.sizes:
        for batch in args.batches:
            for dtype in args.dtypes:
                algo, dims = make_algorithm("mt_oryx", embed_dim, AGENTS, dtype)
                source, tokens = vault_source(random_data(AGENTS), batch, CONTEXT), batch * CONTEXT * AGENTS
                try:
                    m = measure(algo, dims, source, tokens, 3, chunk=CHUNK)
                except jax.errors.JaxRuntimeError as error:
                    print(
                        f"| {embed_dim} | {batch} | {dtype} | {str(error).splitlines()[0][:60]} | | | |",
                        flush=True,
                    )
                    continue
                fits[dtype] = (embed_dim, batch)
                goal = f"{GOAL:.0%}" if (embed_dim, dtype) == (768, "bfloat16") else ""
                print(
                    f"| {embed_dim} | {batch} | {dtype} | {1 / m.seconds:.1f} | {tokens / m.seconds / 1e6:.2f} | "
                    f"{m.work / peaks[dtype]:.1%} | {goal} |",
                    flush=True,
                )
    for dtype, (embed_dim, batch) in fits.items():
        costs = ", ".join(f"{name} {share:.0%}" for name, share in largest_costs(embed_dim, batch, dtype))
        print(f"\nlargest costs at E={embed_dim}, B={batch}, {dtype}: {costs}", flush=True)


if __name__ == "__main__":
    main()
