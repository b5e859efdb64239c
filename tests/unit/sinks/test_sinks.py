"""What each sink writes, and that none of them can end a run."""

import errno
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import rich.console

from mtmarl import sinks
from mtmarl.errors import UserError
from mtmarl.sinks.console import Console
from mtmarl.sinks.jsonl import Jsonl
from mtmarl.sinks.marl_eval import MarlEval
from mtmarl.sinks.summary import HEADLINE, HEADLINE_TEST, summarise
from mtmarl.sinks.tracker import Tracker

RUN = {"algo": "mt_oryx", "tasks": "lbf_2", "seed": 3, "config": {"a": 1}, "quiet": True}
RESULTS = {
    "lbf/a": {"return": [0.0, 1.0], "length": [10, 20], "normalised": 0.5, "split": "train"},
    "lbf/b": {"return": [1.0, 1.0], "length": [5, 5], "normalised": 1.0, "split": "train"},
    "rware/c": {"return": [2.0], "length": [500], "normalised": 0.25, "split": "test"},
    "rware/d": {"return": [4.0], "length": [500], "normalised": None, "split": "test"},
}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_summary_means():
    out = summarise(RESULTS)
    assert out[HEADLINE] == 0.75
    assert out[HEADLINE_TEST] == 0.25
    assert out["eval/lbf/a/return"] == 0.5
    assert out["eval/lbf/a/length"] == 15
    assert "eval/rware/d/normalised_return" not in out


def test_jsonl_lines(tmp_path):
    sink = Jsonl(tmp_path / "m.jsonl")
    sink.start(10)
    sink.log(5, {"td/loss": np.float32(0.5), "n": 3, "bad": float("nan")})
    sink.log_evaluation(5, RESULTS)
    sink.log_evaluation(5, RESULTS, final=True)
    assert rows(tmp_path / "m.jsonl")[0] == {"step": 5, "td/loss": 0.5, "n": 3.0, "bad": None}
    assert rows(tmp_path / "m.jsonl")[1][HEADLINE] == 0.75
    assert rows(tmp_path / "m.jsonl")[2]["final/mean_normalised_return"] == 0.75
    sink.close()


def test_jsonl_resume_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    sink = Jsonl(path)
    for step in (10, 20, 30):
        sink.log(step, {"x": step})
    sink.close()
    with path.open("a") as file:
        file.write('{"step": 4')
    sink = Jsonl(path, resume_step=20)
    sink.log(30, {"x": -1})
    sink.close()
    assert [(r["step"], r["x"]) for r in rows(path)] == [(10, 10), (20, 20), (30, -1)]


def test_jsonl_resume_drops_lines_of_no_run(tmp_path):
    path = tmp_path / "m.jsonl"
    damaged = [b'{"step": "x"}', b'{"step": [1]}', b'{"step": null}', b"\xff", b"[" * 10**5, b"1"]
    path.write_bytes(b"\n".join([b'{"step": 10}', *damaged, b'{"step": 20}', b""]))
    Jsonl(path, resume_step=10).close()
    assert path.read_bytes() == b'{"step": 10}\n'


@pytest.mark.parametrize(
    "text", ["{", "[1]", "null", "[" * 10**5, '{"lbf": 1}', '{"lbf": {"t": {"a": {"seed_0": {"x": 1}}}}}']
)
def test_a_damaged_marl_eval_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "e.json"
    path.write_text(text)
    with pytest.raises(
        UserError, match="e.json: cannot read these evaluations .*; restore the file, or remove it"
    ):
        MarlEval(path, "a", 0, resume_step=15)
    assert path.read_text() == text


def test_marl_eval_schema(tmp_path):
    path = tmp_path / "e.json"
    sink = MarlEval(path, "mt_oryx", 3)
    sink.log(1, {"x": 1.0})
    sink.log_evaluation(10, RESULTS)
    sink.log_evaluation(20, RESULTS)
    sink.log_evaluation(20, RESULTS, final=True)
    record = json.loads(path.read_text())["lbf"]["a"]["mt_oryx"]["seed_3"]
    assert list(record) == ["step_0", "step_1", "absolute_metrics"]
    assert record["step_1"]["step_count"] == 20
    assert record["step_0"]["elapsed_time"] >= 0
    assert record["step_0"]["episode_return"] == [0.0, 1.0]
    assert record["absolute_metrics"] == {
        "episode_return": [0.0, 1.0],
        "episode_length": [10.0, 20.0],
    }


def test_marl_eval_tasks_of_a_file_have_the_same_metrics(tmp_path):
    """rware/d has no reference: readers take the metrics of one task for those of all."""
    known = {task: result for task, result in RESULTS.items() if task != "rware/d"}
    for name, results, expected in (("whole", known, True), ("mixed", RESULTS, False)):
        sink = MarlEval(tmp_path / name, "a", 0)
        if name == "mixed":  # As an earlier evaluation without that task.
            sink.log_evaluation(0, known)
        sink.log_evaluation(10, results)
        sink.log_evaluation(20, results, final=True)
        data = json.loads((tmp_path / name).read_text())
        entries = [e for env in data.values() for task in env.values() for e in task["a"]["seed_0"].values()]
        assert {"normalised_return" in entry for entry in entries} == {expected}


def test_marl_eval_reads_what_is_written(tmp_path):
    reader = pytest.importorskip("marl_eval.utils.data_processing_utils")
    sink = MarlEval(tmp_path / "e.json", "a", 0)
    for final in (False, True):
        sink.log_evaluation(10, RESULTS, final=final)
    data = reader.data_process_pipeline(json.loads((tmp_path / "e.json").read_text()), [])
    matrices, _ = reader.create_matrices_for_rliable(data, "rware", [])
    assert matrices["mean_episode_return"]["a"].tolist() == [[2.0, 4.0]]


def test_marl_eval_resume_equals_uninterrupted(tmp_path):
    def run(name, interrupted):
        path = tmp_path / name
        sink = MarlEval(path, "a", 0)
        for step in (10, 20):
            sink.log_evaluation(step, RESULTS)
        if interrupted:
            sink = MarlEval(path, "a", 0, resume_step=15)
            sink.log_evaluation(20, RESULTS)
        data = json.loads(path.read_text())["lbf"]["b"]["a"]["seed_0"]
        return {k: {m: x for m, x in v.items() if m != "elapsed_time"} for k, v in data.items()}

    assert run("x.json", False) == run("y.json", True)


def lines(terminal, quiet=False):
    out = io.StringIO()
    sink = Console(quiet, rich.console.Console(file=out, force_terminal=terminal, width=120))
    sink.start(100, 0)
    sink.log(50, {"td/loss": 0.25, "other": 1.0})
    sink.log_evaluation(50, RESULTS)
    sink.log(100, {"td/loss": 0.125})
    sink.log_evaluation(100, RESULTS, final=True)
    sink.close()
    return out.getvalue()


def test_console_plain():
    text = lines(terminal=False)
    assert "50 of 100 updates" in text
    assert "/s, " in text
    assert "td/loss 0.25" in text
    assert "train tasks 0.750, test tasks 0.250" in text
    assert "(2 episodes)" in text
    assert "\x1b" not in text


def test_console_bar_and_quiet():
    text = lines(terminal=True)
    assert "updates/s" in text
    assert "100/100" in text
    assert lines(terminal=False, quiet=True) == ""
    assert lines(terminal=True, quiet=True) == ""


def test_console_without_references():
    out = io.StringIO()
    sink = Console(console=rich.console.Console(file=out, width=120))
    sink.log_evaluation(1, {"lbf/x": {"return": [2.0], "length": [1], "normalised": None, "split": "train"}})
    assert "lbf/x 2.000" in out.getvalue()


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = sinks.open_sinks(["tensorboard"], tmp_path, RUN)
    sink.log(1, {"x": 1.0})
    sink.log_evaluation(1, RESULTS)
    sink.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_the_same_calls(tmp_path, monkeypatch, name):
    opened = []

    def init(**options):
        calls = [options]
        opened.append(calls)
        return types.SimpleNamespace(
            log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("end")
        )

    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))
    sink, beside = (sinks.open_sinks([name], tmp_path, RUN) for _ in range(2))  # as with seeds=[0,1]
    sink.log(1, {"x": 1})
    sink.log_evaluation(2, RESULTS)
    beside.log(1, {"x": 5})
    sink.close()
    calls = opened[0]
    assert calls[0]["config"] == {"a": 1}
    assert calls[1] == (1, {"x": 1.0})
    assert calls[2][1][HEADLINE] == 0.75
    assert calls[3] == "end"
    assert opened[1][1:] == [(1, {"x": 5.0})]
    assert name == "trackio" or (calls[0]["mode"], calls[0]["reinit"]) == ("offline", "create_new")


def test_neptune_is_offline_and_says_so(tmp_path, monkeypatch, caplog):
    series, seen = {}, {}

    class Run:
        def __getitem__(self, name):
            return types.SimpleNamespace(append=lambda v, step: series.setdefault(name, []).append((step, v)))

        def stop(self):
            seen["stopped"] = True

    module = types.ModuleType("neptune")
    module.init_run = lambda **kw: seen.update(kw) or Run()
    monkeypatch.setitem(sys.modules, "neptune", module)
    monkeypatch.setenv("NEPTUNE_DATA_DIRECTORY", str(tmp_path))
    sink = sinks.open_sinks(["neptune"], tmp_path, RUN)
    sink.log(1, {"x": 2})
    sink.close()
    assert (seen["mode"], seen["stopped"], series["x"]) == ("offline", True, [(1, 2.0)])
    assert "closed" in caplog.text


def test_defaults_write_both_files(tmp_path):
    sink = sinks.open_sinks(["console", "jsonl", "marl_eval"], tmp_path / "run", RUN)
    sink.start(10)
    sink.log(5, {"x": 1.0})
    sink.log_evaluation(10, RESULTS)
    sink.close()
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 2
    assert "rware" in json.loads((tmp_path / "run" / "marl_eval.json").read_text())


def test_unknown_and_missing_sinks_are_errors_at_launch(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown sink jsonn"):
        sinks.open_sinks(["jsonn"], tmp_path, RUN)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"mtmarl\[wandb\]"):
        sinks.open_sinks(["jsonl", "wandb"], tmp_path, RUN)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not start"):
        sinks.open_sinks(["jsonl"], tmp_path / "file", RUN)


def test_rows_wait_for_a_sink_that_fails_for_a_while(tmp_path, caplog, monkeypatch):
    """As while a disk is full, which leaves half a line."""
    opened, full = Path.open, []

    def fail(path, *args, **kw):
        if full and path.name == "b.jsonl":
            with opened(path, "ab") as file:
                file.write(b'{"step": 2, "x')
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, *args, **kw)

    both = sinks.Sinks({name: Jsonl(tmp_path / f"{name}.jsonl") for name in ("b", "good")})
    monkeypatch.setattr(Path, "open", fail)
    both.log(1, {"x": 1.0})
    full.append(True)
    both.log(2, {"x": 2.0})
    both.log_evaluation(3, RESULTS)
    assert len(caplog.records) == 1 and "sink b failed, the run continues" in caplog.text
    full.clear()
    both.log(4, {"x": 4.0})
    both.close()
    assert [r["step"] for r in rows(tmp_path / "b.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "b.jsonl").read_text() == (tmp_path / "good.jsonl").read_text()
    assert len(caplog.records) == 2 and "sink b works again" in caplog.text


def test_what_waits_is_written_at_the_end_or_counted(caplog):
    broken, seen = [True], []

    class Flaky:
        start = log_evaluation = lambda self, *args: None
        close = lambda self: seen.append("closed")

        def log(self, step, metrics):
            if broken:
                raise ConnectionError("gone")
            seen.append(step)

    sink = sinks.Sinks({"a": Flaky(), "b": Flaky()})
    sink.log(1, {})
    sink.log(2, {})
    sink.close()
    assert seen == ["closed", "closed"] and caplog.text.count("2 entries are lost") == 2
    sink = sinks.Sinks({"a": Flaky()})
    sink.log(1, {})
    broken.clear()
    sink.close()
    assert seen[2:] == [1, "closed"]


class Lost(Exception):
    """As clients of trackers raise it, of no class of Python's own."""


@pytest.mark.parametrize(
    "error", [Lost("gone"), ConnectionError("gone"), RuntimeError("not started"), ValueError("?")]
)
def test_a_tracker_that_fails_costs_no_other_sink_a_row(tmp_path, caplog, error):
    failing, seen = [True], []

    def write(metrics, step):
        if failing:
            raise error
        seen.append(step)

    both = sinks.Sinks({"tracker": Tracker(write, lambda: None), "jsonl": Jsonl(tmp_path / "m.jsonl")})
    both.log(1, {"x": 1.0})
    both.log_evaluation(2, RESULTS)
    assert [r["step"] for r in rows(tmp_path / "m.jsonl")] == [1, 2]
    failing.clear()
    both.log(3, {"x": 3.0})
    both.close()
    assert [r["step"] for r in rows(tmp_path / "m.jsonl")] == [1, 2, 3]
    assert seen == ([3] if isinstance(error, ValueError) else [1, 2, 3])
    assert caplog.text.count("sink tracker failed, the run continues") == 1


def test_a_row_that_a_sink_cannot_take_is_left_out(tmp_path, caplog):
    sink = sinks.Sinks({"jsonl": Jsonl(tmp_path / "m.jsonl")})

    class Odd(float):
        def __float__(self):
            raise ValueError("no number")

    for step, value in ((1, 1.0), (2, Odd()), (3, Odd()), (4, 4.0)):
        sink.log(step, {"x": value})
    sink.close()
    assert [r["step"] for r in rows(tmp_path / "m.jsonl")] == [1, 4]
    assert "invalid entries are skipped" in caplog.text and len(caplog.records) == 2


def test_marl_eval_writes_and_keeps_little_however_long_a_run_is(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "mtmarl.sinks.marl_eval.write_json", lambda f, v: (written.append(1), f.write_text(json.dumps(v)))
    )
    sink = MarlEval(tmp_path / "e.json", "a", 0)
    result = {"lbf/x": {"return": [1.0], "length": [3], "normalised": 0.5, "win_rate": None}}
    for step in range(100):
        sink.log_evaluation(step, result)
    assert len(written) < 10, "the whole file is written at doubling distances alone"
    assert not any(isinstance(v, dict) for v in vars(sink).values())
    # Killed here: nothing of the log is lost, and a half-written line does no harm.
    with (tmp_path / "e.jsonl").open("a") as log:
        log.write('{"step": 100, "ta')
    MarlEval(tmp_path / "e.json", "a", 0)
    steps = json.loads((tmp_path / "e.json").read_text())["lbf"]["x"]["a"]["seed_0"]
    assert [v["step_count"] for v in steps.values()] == list(range(100))
    assert not (tmp_path / "e.jsonl").exists()
