"""results.json as reports wrote it before facts had a file of their own: statistics and runs in one value."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

# Of the results.json that reports write now: statistics alone.
FORMAT = 3


def lines(value: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """What reports of earlier versions kept, as lines of facts. Format 1 has no evaluations and no settings."""
    made = value.get("format")
    if made == FORMAT:
        raise ValueError(f"{name} holds statistics alone; give the facts.jsonl beside it")
    if made not in (1, 2) or "sweeps" not in value:
        raise ValueError(f"{name} is no results.json of a report" + (f" (format {made})" if made else ""))
    known, references = value.get("settings") or {}, value["references"]

    def kept(run: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        tasks = run.get("scores") or {}
        theirs = {task: references[task] for task in tasks if task in references}
        return {**run, "settings": known.get(run.get("settings")), "references": theirs, **more}

    for sweep in value["sweeps"]:
        try:
            yield _plan(sweep)
        except (LookupError, TypeError, AttributeError, ValueError):
            yield {**sweep, "kind": "sweep"}  # The reader of plans says what is wrong with it.
        of = {"sweep": sweep.get("name"), "profile": sweep.get("profile")}
        yield from (kept(r, **of) for r in sweep["runs"] if "scores" in r or r.get("diverged"))
    for experiment in value["experiments"]:
        yield from map(kept, experiment["runs"])
    for online in value.get("collection") or ():
        run = {**online["run"], "train_tasks": [online["task"]], "test_tasks": []}
        if "evaluations" not in run:
            run["collected"] = {key: number for key, number in online.items() if key != "run"}
        yield kept(run)


def _plan(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a sweep in a results.json, as sweep.json has it."""
    argv = lambda run: shlex.split(run["command"])[3:]
    planned = [
        {"cell": r["cell"], "seed": r["seed"], "dir": r["dir"], "argv": argv(r)} for r in sweep["runs"]
    ]
    for run in sweep["to_do"]:
        directory = "/".join([*(f"{a}={v}" for a, v in run["cell"].items()), f"seed_{run['seed']}"])
        planned.append({"cell": run["cell"], "seed": run["seed"], "dir": directory, "argv": argv(run)})
    paper = [{**claim, "gain": claim["published"]} for claim in sweep["claims"]]
    published = [
        {**own, "mean": own["published"], "standard_error": own["published_standard_error"]}
        for own in sweep.get("published") or ()
    ]
    about = {key: sweep.get(key) for key in ("name", "profile", "title", "x", "panel", "line", "axes")}
    return {"kind": "sweep", **about, "runs": planned, "paper": paper, "published": published}
