"""`python -m tests.faults [KIND …]`: tries faults of every kind on the commands and counts what came of them.

Faults are drawn from fixed seeds: number 17 of a kind is always the same one. A worker process tries them, so that a
fault which ends the process is a result like others. The exit code is 1 if anything changed without a word, ended in a
traceback or never ended.

    python -m tests.faults vaults            one kind
    python -m tests.faults vaults --only 17  one fault, with all that it printed
    python -m tests.faults --share 0.1       a tenth of each kind, spread evenly
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from tests.faults import cases

MODULES = ("vaults", "policies", "settings", "records", "reports", "archives")
PATIENCE = 180.0  # seconds without a result until a worker counts as hanging


def kinds() -> dict[str, str]:
    """{kind: the module that has it}."""
    return {name: module for module in MODULES for name in import_module(f"tests.faults.{module}").KINDS}


def numbers(count: int, share: float) -> list[int]:
    return sorted({round(i / share) for i in range(round(count * share))} & set(range(count)))


# ----------------------------------------------------------------------------------------------- worker


def work(kind: cases.Kind, chosen: list[int], scratch: Path, journal: Path) -> None:
    """Tries faults and writes a line before and after each of them."""
    cases.limit_memory()
    with journal.open("a", encoding="utf-8") as out:
        for number in chosen:
            print(json.dumps({"begins": number}), file=out, flush=True)
            case = kind.case(scratch, number)
            print(
                json.dumps({"begins": number, "group": case.group, "recipe": case.recipe}),
                file=out,
                flush=True,
            )
            result = cases.run(case)
            line = {"ends": number, "group": case.group, "recipe": case.recipe, **result._asdict()}
            print(json.dumps(line), file=out, flush=True)


# ----------------------------------------------------------------------------------------------- parent


def supervise(module: str, kind: str, chosen: list[int], scratch: Path) -> list[dict]:
    """The results of a kind. A worker that dies or hangs leaves a failure, and another goes on behind it."""
    journal, results, left = scratch / f"{kind}.jsonl", [], list(chosen)
    while left:
        journal.write_text("", encoding="utf-8")
        argv = [sys.executable, "-m", "tests.faults", kind, "--worker", str(scratch)]
        with (scratch / f"{kind}.log").open("a") as log:
            worker = subprocess.Popen([*argv, "--only", *map(str, left)], stdout=log, stderr=log)
            size, since = 0, time.monotonic()
            while worker.poll() is None:
                time.sleep(0.2)
                if journal.stat().st_size != size:
                    size, since = journal.stat().st_size, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    worker.kill()
            hung = time.monotonic() - since > PATIENCE
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        results += [line for line in lines if "ends" in line]
        done = {line["ends"] for line in results}
        unfinished = [line for line in lines if "begins" in line and line["begins"] not in done]
        if unfinished:
            outcome = cases.SLOW if hung else cases.TRACEBACK
            detail = (
                f"the process {'hung' if hung else f'ended with {worker.returncode}'}; {scratch / kind}.log"
            )
            last = {"group": "?", "recipe": "?", **unfinished[-1]}
            results.append(
                {**last, "ends": last["begins"], "outcome": outcome, "door": "?", "detail": detail}
            )
            done.add(last["begins"])
        elif not lines:
            raise SystemExit(f"{kind}: the worker did not start; see {scratch / kind}.log")
        left = [number for number in left if number not in done]
    return results


def show(kind: str, results: list[dict], seconds: float) -> None:
    print(f"\n{kind}: {len(results)} tried in {seconds:.0f} s")
    groups = list(dict.fromkeys(r["group"] for r in results))
    width = max(map(len, [*groups, "all"]))
    print(f"  {'':{width}}  {'tried':>6}" + "".join(f"{o:>15}" for o in cases.OUTCOMES))
    for group in [*groups, "all"]:
        own = [r for r in results if group in (r["group"], "all")]
        counts = Counter(r["outcome"] for r in own)
        print(f"  {group:{width}}  {len(own):>6}" + "".join(f"{counts[o]:>15}" for o in cases.OUTCOMES))
    for r in sorted(results, key=lambda r: (r["detail"], r["ends"])):
        if r["outcome"] in cases.FAILURES:
            print(f"  {r['outcome'].upper()}: {kind} --only {r['ends']}: {r['recipe']}")
            print(f"      {r['door']}: {r['detail'][:600]}")
    sys.stdout.flush()


def main() -> int:
    known = kinds()
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.split("\n")[0])
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of faults, tried in this process")
    parser.add_argument("--share", type=float, default=1.0, help="of each kind")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if wrong := [k for k in args.kind if k not in known]:
        parser.error(f"no such kind: {', '.join(wrong)}")
    chosen = args.kind or list(known)
    found = {name: import_module(f"tests.faults.{known[name]}").KINDS[name] for name in chosen}
    if args.worker:
        (kind,) = found.values()
        work(kind, args.only, args.worker, args.worker / f"{kind.name}.jsonl")
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="mtmarl-faults-"))
    total: Counter[str] = Counter()
    try:
        for name, kind in found.items():
            began = time.monotonic()
            some = args.only or numbers(kind.count, args.share)
            results = supervise(known[name], name, some, scratch)
            show(name, results, time.monotonic() - began)
            if args.only:
                for r in results:
                    print(json.dumps(r, indent=1, ensure_ascii=False))
            total += Counter(r["outcome"] for r in results)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"\nall kinds: {total.total()} tried, " + ", ".join(f"{total[o]} {o}" for o in cases.OUTCOMES))
    return 1 if any(total[o] for o in cases.FAILURES) else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )
    sys.exit(main())
