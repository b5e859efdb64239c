"""Sweeps as jobs: queued once, waited for again, tried again when they failed. submitit runs them on this machine."""

import json
import os
from pathlib import Path

import pytest

from mtmarl.errors import UserError
from mtmarl.sweeps import slurm
from mtmarl.sweeps.options import read_options

submitit = pytest.importorskip("submitit")

SCRIPT = """
import json, os, sys
from pathlib import Path
where = Path(next(a for a in sys.argv if a.startswith("run_dir=")).removeprefix("run_dir="))
(where / "calls").open("a").write(" ".join(sys.argv[1:]) + chr(10))
if "fail=true" in sys.argv and len((where / "calls").read_text().splitlines()) == 1:
    sys.exit("out of luck")
(where / "final.json").write_text(json.dumps({"best": {"tasks": {}}}))
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Instead of training: note the call, then finish, or fail the first time."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(slurm, "TRAIN", (slurm.TRAIN[0], str(script)))
    return tmp_path / "out"


def runs(out, *options):
    return [
        {
            "dir": f"width={i}/seed_0",
            "cell": {"width": str(i)},
            "seed": 0,
            "argv": [f"run_dir={out}/width={i}/seed_0", o],
        }
        for i, o in enumerate(options)
    ]


def settings(**options):
    return slurm.Config("slurm", submitit="local", gpus_per_node=0, **options)


def calls(out, i):
    return (out / f"width={i}/seed_0/calls").read_text().splitlines()


def test_runs_become_jobs_and_failed_ones_are_tried_again(train):
    three, ended = runs(train, "a=1", "fail=true", "a=2"), []
    execute = lambda: slurm.execute(three, train, 2, settings(), lambda r: ended.append(r["dir"]), poll=0.1)
    assert [r["dir"] for r in execute()] == ["width=1/seed_0"]
    assert sorted(ended) == [r["dir"] for r in three]
    assert "out of luck" in (train / "width=1/seed_0/log.txt").read_text()
    assert execute() == [], "the second time it works"
    assert [len(calls(train, i)) for i in range(3)] == [1, 2, 1]
    assert execute() == [] and len(ended) == 4, "nothing is left to do"


def test_jobs_in_the_queue_are_waited_for_and_not_queued_again(train, monkeypatch):
    one = runs(train, "a=1")
    (train / "slurm").mkdir(parents=True)
    (train / "slurm/jobs.json").write_text(json.dumps({one[0]["dir"]: "7"}))
    looked = []

    class Queued(submitit.LocalJob):
        @property
        def state(self):
            looked.append(self.job_id)
            if len(looked) < 4:
                return "PENDING"
            (train / one[0]["dir"]).mkdir(parents=True)
            (train / one[0]["dir"] / "final.json").write_text("{}")
            return "COMPLETED"

    monkeypatch.setattr(submitit, "LocalJob", Queued)
    assert slurm.execute(one, train, 1, settings(), poll=0.01) == []
    assert set(looked) == {"7"} and not (train / one[0]["dir"] / "calls").exists()


def test_a_job_that_the_queue_does_not_know_is_waited_for_and_given_up(train, monkeypatch):
    """One job per run: it is not queued again while it may live; a purged one is, by the next call."""
    one = runs(train, "a=1")
    (train / "slurm").mkdir(parents=True)
    (train / "slurm/jobs.json").write_text(json.dumps({one[0]["dir"]: "7"}))
    states = ["UNKNOWN", "UNKNOWN", "RUNNING", "UNKNOWN"]

    class Unknown(submitit.LocalJob):
        @property
        def state(self):
            return states.pop(0) if len(states) > 1 else states[0]

    monkeypatch.setattr(slurm, "LOST_SECONDS", 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(submitit, "LocalJob", Unknown)
        assert slurm.execute(one, train, 1, settings(), poll=0.01) == one
    assert not (train / one[0]["dir"] / "calls").exists(), "no second job beside the first"
    assert json.loads((train / "slurm/jobs.json").read_text()) == {}
    assert slurm.execute(one, train, 1, settings(), poll=0.05) == []
    assert len(calls(train, 0)) == 1


def test_several_tasks_train_one_run_together(train):
    one = runs(train, "a=1")
    assert slurm.execute(one, train, 1, settings(tasks_per_node=2), poll=0.1) == []
    assert all("distributed=true" in call for call in calls(train, 0))
    assert len(calls(train, 0)) == 2


def test_a_job_that_is_cut_short_is_queued_as_it_is():
    job = slurm.Train(("a=1",), "log.txt")
    assert job.checkpoint().function == job


def test_settings_and_mistakes(monkeypatch):
    found = slurm.read(
        "slurm", {"partition": "gpu", "gpus_per_node": "8", "nodes": "2", "setup": "[module load x]"}
    )
    assert (found.partition, found.gpus_per_node, found.tasks, found.setup) == (
        "gpu",
        8,
        2,
        ("module load x",),
    )
    assert slurm.read("local").kind == "local"
    for name, options, message in (
        ("slrum", {}, "did you mean slurm"),
        ("slurm", {"minuts": "3"}, "did you mean minutes"),
        ("slurm", {"minutes": "long"}, "minutes must be int"),
        ("slurm", {"nodes": "0"}, "nodes must be at least 1"),
        (
            "slurm",
            {"setup": "[export A=1, 'curl https://me:secret@host/x']"},
            "launcher.setup holds a password",
        ),
        ("slurm", {"setup": f"[export HF_TOKEN=hf_{'x' * 30}]"}, "launcher.setup holds a password"),
        ("slurm", {"account": "https://host/x?token=secret"}, "launcher.account holds a password"),
    ):
        with pytest.raises(UserError, match=message):
            slurm.read(name, options)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match="node that can submit jobs"):
        slurm._executor(slurm.Config("slurm"), Path("unused"), 1)


def test_the_command_line_of_a_sweep():
    options = read_options(["+sweep=model_size", "launcher=slurm", "launcher.partition=gpu", "jobs=8"])
    assert (options.launcher, dict(options.launcher_options), options.jobs) == (
        "slurm",
        {"partition": "gpu"},
        8,
    )
    with pytest.raises(UserError, match="launcher=slurm launcher.nodes="):
        read_options(["+sweep=model_size", "distributed=true"])
