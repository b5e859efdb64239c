"""How long pulling a data set takes, relative to copying it: `python bench/pull.py [gigabytes] [repeats]`.

All read from the same server on loopback, in a process of its own, hash with SHA-256 and write files. Two copies, one
file after the other: with the standard library's plain sockets, and as huggingface_hub downloads. Prints the ratios of
the fastest runs, as whatever else the machine does only ever adds, and how much memory the pull took on top.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

REPO, SIZES = "lab/large", (0.4, 0.2, 0.1, 0.1, 0.1, *[0.01] * 10)


def make(root: Path, size: int) -> None:
    """Two vaults of random bytes: what they hold does not matter to who moves them."""
    from mtmarl.data import vault

    block = os.urandom(2**20)
    for scenario in ("a", "b"):
        folder = root / "bench" / f"{scenario}.vlt" / "replay"
        (folder / "d").mkdir(parents=True)
        about = {"version": 1.2, "schema_version": 1, "task": f"bench/{scenario}", "steps": 1, "episodes": 0}
        (folder / "metadata.json").write_text(json.dumps(about | {"episode_return": {}}))
        for i, share in enumerate(SIZES):
            with (folder / "d" / f"{i:032x}").open("wb") as out:
                for j in range(max(1, int(share * size / 2 / len(block)))):
                    out.write(block[j % 1000 :] + block[: j % 1000])
    vault.update_manifest(root)


SERVE = """
import sys, time; from pathlib import Path; from hub_server import running
root = Path(sys.argv[1])
files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
files["manifest.json"] = files["manifest.json"].read_bytes()
with running() as hub:
    hub.create(sys.argv[2], files)
    print(hub.url, flush=True)
    time.sleep(1e6)
"""


def copy(url: str, root: Path, to: Path) -> None:
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        place = file.relative_to(root).as_posix()
        digest, target = hashlib.sha256(), to / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(f"{url}/datasets/{REPO}/resolve/main/{place}") as source,
            target.open("wb") as out,
        ):
            while chunk := source.read(2**20):
                digest.update(chunk)
                out.write(chunk)


def download(root: Path, to: Path) -> None:
    from huggingface_hub import hf_hub_download

    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        place = file.relative_to(root).as_posix()
        with open(hf_hub_download(REPO, place, repo_type="dataset", local_dir=to), "rb") as got:
            hashlib.file_digest(got, "sha256")


def main() -> None:
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gigabytes", nargs="?", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("repeats", nargs="?", type=int, default=3, help="default: %(default)s")
    args = parser.parse_args()
    gigabytes, repeats = args.gigabytes, args.repeats
    with tempfile.TemporaryDirectory() as scratch:
        root, to = Path(scratch) / "origin", Path(scratch) / "to"
        make(root, int(gigabytes * 1e9))
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, root, REPO], env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = os.environ["HF_ENDPOINT"] = server.stdout.readline().strip()
            from mtmarl.data import hub

            address = f"hf://datasets/{REPO}"
            hub.read_manifest(hub.connect(address))  # all is imported
            download(root, to)  # as far as memory goes: what the client itself takes
            shutil.rmtree(to)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            times: dict[str, list[float]] = {"pull": [], "copy": [], "download": []}
            for _ in range(repeats):
                for name, run in (
                    ("copy", lambda: copy(url, root, to)),
                    ("download", lambda: download(root, to)),
                    ("pull", lambda: hub.pull(address, to, say=lambda line: None)),
                ):
                    began = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - began)
                    shutil.rmtree(to)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        finally:
            server.terminate()
            server.wait()
    best = {name: min(values) for name, values in times.items()}
    print(
        f"{gigabytes:g} GB: pull {best['pull']:.2f} s, "
        f"{best['pull'] / best['copy']:.2f} of a copy with plain sockets ({best['copy']:.2f} s), "
        f"{best['pull'] / best['download']:.2f} of huggingface_hub's download ({best['download']:.2f} s); "
        f"memory + {grown:.0f} MiB"
    )


if __name__ == "__main__":
    main()
