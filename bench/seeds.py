"""What several seeds in one program cost, as a multiple of one: `python bench/seeds.py [--seeds 1 3 8]`.

On an accelerator one small network leaves most of the machine idle, so more of them are nearly free; on a CPU, which
one network fills, the gain is that the program is compiled once.
"""

import argparse

import jax
from update import make_algorithm, measure, random_data

from mtmarl.data.source import vault_source
from mtmarl.training import sharding


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [1, 3] if jax.default_backend() == "cpu" else [1, 3, 8]
    parser.add_argument("--seeds", type=int, nargs="+", default=default, help="default here: %(default)s")
    parser.add_argument("--embed-dim", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="the first two numbers of seeds only")
    args = parser.parse_args()
    print(f"{sharding.describe()}; MT Oryx, E={args.embed_dim}, B=64, T=20, N=4\n", flush=True)
    print("| seeds | ms/update of all | times one seed | goal on an accelerator | compile s |")
    print("|---:|---:|---:|---:|---:|")
    (algo, dims), source = make_algorithm("mt_oryx", args.embed_dim, 4), vault_source(random_data(4), 64, 20)
    base = None
    for count in args.seeds[: 2 if args.quick else None]:
        m = measure(algo, dims, source, 64 * 20 * 4, 3, tuple(range(count)), chunk=5)
        base = base or m.seconds / count
        goal = "3.0" if count == 8 else ""
        print(
            f"| {count} | {1e3 * m.seconds:.1f} | {m.seconds / base:.2f} | {goal} | {m.compile_seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
