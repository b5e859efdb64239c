"""Whole runs on tiny tasks: train, interrupt, resume, load, evaluate, report; and what bad input gets."""

import json
import shutil

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import collect, config, evaluate, report, train
from mtmarl.data.vault import identity, write_reference
from mtmarl.files import only_writer
from mtmarl.runs.policy import read_saved
from mtmarl.runs.record import read_progress
from mtmarl.training.checkpoint import Checkpoints

SMALL = [
    "+algo=mt_oryx", "algo.network.embed_dim=16", "algo.network.heads=2",
    "trainer.updates=8", "trainer.chunk=2", "trainer.checkpoint_every=4", "trainer.batch_size=8", "trainer.context=5",
    "evaluator.every=4", "evaluator.episodes=4", "evaluator.final_episodes=8", "quiet=true",
]  # fmt: skip


def arguments(vaults, run_dir, *more):
    return [*SMALL, "+tasks=micro", f"data.vault_dir={vaults}", f"run_dir={run_dir}", *more]


@pytest.fixture(scope="module")
def finished(micro_vaults, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(arguments(micro_vaults, run_dir)) == 0
    return run_dir


def parameters(run_dir):
    return mtmarl.load_policy(run_dir, "last").params


def test_a_run_leaves_its_records(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["train_tasks"] == ["lbf/5x5-2p-1f-t20", "lbf/6x6-3p-1f-t20"]
    assert record["minutes"] >= 0 and record["parameters"] > 0
    final = json.loads((finished / "final.json").read_text())
    for which in ("best", "last"):
        assert {len(t["return"]) for t in final[which]["tasks"].values()} == {8}
    exchange = json.loads((finished / "marl_eval.json").read_text())
    assert "absolute_metrics" in exchange["lbf"]["6x6-2p-2f-t20"]["mt_oryx"]["seed_0"]
    steps = [json.loads(line)["step"] for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 8
    for name in ("report.md", "report.html", "learning_curves.png", "tasks.png"):
        assert (finished / "report" / name).stat().st_size > 0


def test_resuming_is_as_if_nothing_had_happened(finished, micro_vaults, tmp_path, monkeypatch):
    vaults = shutil.copytree(micro_vaults, tmp_path / "vaults")
    save = Checkpoints.save

    def die_after(self, update, state):
        save(self, update, state)
        if update == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_after)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(vaults, tmp_path / "run"))
    for task in json.loads((tmp_path / "run" / "run.json").read_text())["references"]:
        write_reference(vaults, task, {"reference": 50.0, "random": 0.0})  # collected anew
    assert train.main(arguments(vaults, tmp_path / "run")) == 0
    jax.tree.map(np.testing.assert_array_equal, parameters(finished), parameters(tmp_path / "run"))
    for name in ("final.json", "best.json"):
        assert json.loads((tmp_path / "run" / name).read_text()) == json.loads((finished / name).read_text())


def test_a_run_that_diverges_is_no_result(micro_vaults, tmp_path, capsys):
    """Its first steps are as large as numbers go."""
    options = arguments(micro_vaults, tmp_path / "run", "algo.learning_rate=1e30", "algo.max_grad_norm=1e30")
    for _ in range(2):  # The same settings again: the same end.
        assert train.main(options) == 3
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and "seed 0 diverged at update " in error
        assert not (tmp_path / "run" / "final.json").exists()
    kept = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert kept["seed"] == 0 and kept["checkpoint"] is None
    for text in (tmp_path / "run/report/report.md", tmp_path / "again/report.md"):
        if text.parent.name == "again":
            assert report.main([str(tmp_path), "--out", str(text.parent)]) == 0
        assert kept["line"] in text.read_text()


def test_a_finished_run_is_left_alone(finished, micro_vaults, capsys):
    before = (finished / "final.json").stat().st_mtime_ns
    assert train.main(arguments(micro_vaults, finished)) == 0
    assert "already finished" in capsys.readouterr().out
    assert (finished / "final.json").stat().st_mtime_ns == before


def test_a_report_that_a_finished_run_never_wrote_is_written(finished, micro_vaults):
    """As when it was killed just before."""
    shutil.rmtree(finished / "report")
    assert train.main(arguments(micro_vaults, finished)) == 0
    assert (finished / "report" / "report.md").exists()


def test_two_processes_do_not_write_one_run(micro_vaults, tmp_path, capsys):
    with only_writer(tmp_path):
        assert train.main(arguments(micro_vaults, tmp_path)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {tmp_path}: another process") and len(error.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_loaded_policy_plays_larger_teams(finished):
    policy = mtmarl.load_policy(finished)
    results = mtmarl.evaluate_policy(policy, "lbf/7x7-5p-2f-t10", episodes=6)
    assert results["lbf/7x7-5p-2f-t10"].episode_return.shape == (6,)


def test_evaluate_prints_every_task(finished, capsys):
    options = [f"run={finished}", "+tasks=lbf/6x6-2p-1f-t10", "evaluator.final_episodes=4"]
    assert evaluate.main(options) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["tasks"]["lbf/6x6-2p-1f-t10"].keys() >= {"return", "greedy_return", "standard_error"}


def test_report_draws_what_is_whole_and_names_the_rest(finished, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"kind": "train"}')
    assert report.main([str(finished), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "broken" in text and "mt_oryx" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["algo.learning_rat=1"], ("learning_rat", "learning_rate")),
        (["trainer.updates=abc"], ("trainer.updates", "abc")),
        (["trainer.updates=7"], ("trainer.updates", "trainer.chunk")),
        (["trainer.context=100000"], ("context",)),
        (["evaluator.every=0"], ("evaluator.every",)),
        (["tasks.test=[]", "evaluator.select_on=test"], ("select_on=test", "tasks.test")),
        (["algo=mt_orix"], ("mt_orix", "mt_oryx")),
        (["+tasks=lbf_55"], ("lbf_55", "lbf_5")),
        (["tasks.test=[rware/tiny-4ag]"], ("rware/tiny-4ag", "lbf")),
        (["tasks.train=[lbf/9x9-2p-1f]"], ("lbf/9x9-2p-1f", "mtmarl.collect")),
        (["sinks=[consol]"], ("consol",)),
    ],
)
def test_bad_input_gets_one_clear_line(micro_vaults, tmp_path, capsys, options, words):
    given = {o.lstrip("+").partition("=")[0] for o in options}
    rest = [
        a for a in arguments(micro_vaults, tmp_path / "run") if a.lstrip("+").partition("=")[0] not in given
    ]
    assert train.main([*rest, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "holds no object"),
        ('{"kind": "train"}', "missing key config"),
    ],
)
def test_a_damaged_record_is_said_in_one_line(micro_vaults, tmp_path, capsys, content, words):
    (tmp_path / "run.json").write_text(content)
    for failing in (
        lambda: train.main(arguments(micro_vaults, tmp_path)),
        lambda: evaluate.main([f"run={tmp_path}"]),
        lambda: train.main([*arguments(micro_vaults, tmp_path / "next"), f"init_from={tmp_path}"]),
    ):
        assert failing() == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and len(error.splitlines()) == 1
        assert words in error and str(tmp_path / "run.json") in error


def test_a_file_in_the_place_of_a_folder_is_said_in_one_line(finished, micro_vaults, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for failing in (
        lambda: train.main(arguments(micro_vaults, tmp_path / "file")),
        lambda: report.main([str(finished), "--out", str(tmp_path / "file")]),
        lambda: report.main([str(finished), "--out", str(tmp_path / "file" / "below")]),
    ):
        assert failing() == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"error: {tmp_path / 'file'}") and len(error.splitlines()) == 1


def test_other_settings_do_not_overwrite_a_run(finished, micro_vaults, capsys):
    before = (finished / "run.json").read_bytes()
    assert train.main(arguments(micro_vaults, finished, "algo.gamma=0.5")) == 2
    assert "algo" in capsys.readouterr().err
    assert (finished / "run.json").read_bytes() == before


def test_a_corrupt_vault_is_refused(micro_vaults, tmp_path, capsys):
    shutil.copytree(micro_vaults, tmp_path / "vaults")
    metadata = next((tmp_path / "vaults").rglob("metadata.json"))
    record = json.loads(metadata.read_text())
    record["steps"] += 1
    metadata.write_text(json.dumps(record))
    assert train.main(arguments(tmp_path / "vaults", tmp_path / "run")) == 2
    assert str(metadata.parent) in capsys.readouterr().err


def test_collection_resumes_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    options = [
        "+algo=sable", "+tasks=lbf/5x5-2p-1f-t20", "algo.network.embed_dim=16", "algo.network.heads=2",
        "collect.env_steps=512", "collect.num_envs=8", "collect.rollout_length=8", "collect.evaluations=2",
        "collect.record_points=3", "collect.eval_episodes=4", "collect.record_episodes=6", "quiet=true",
        f"run_dir={tmp_path / 'run'}", f"data.vault_dir={tmp_path / 'vaults'}",
    ]  # fmt: skip
    save = Checkpoints.save

    def die_after(self, update, state):
        save(self, update, state)
        if update == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_after)
        with pytest.raises(KeyboardInterrupt):
            collect.main(options)
    assert collect.main(options) == 0
    assert "goes on from update 4" in capsys.readouterr().out
    path = "vaults/lbf/5x5-2p-1f-t20.vlt/replay"
    vault = mtmarl.read_vault(tmp_path / path)
    whole = [f"run_dir={tmp_path / 'whole'}", f"data.vault_dir={tmp_path / 'whole' / 'vaults'}"]
    assert collect.main([o for o in options if not o.startswith(("run_dir", "data"))] + whole) == 0
    assert identity(tmp_path / path) == identity(tmp_path / "whole" / path), "as if nothing had happened"
    capsys.readouterr()
    for which in ("best", "last"):
        scored = mtmarl.evaluate_policy(
            mtmarl.load_policy(tmp_path / "run", which), "lbf/5x5-2p-1f-t20", episodes=4
        )
        assert scored["lbf/5x5-2p-1f-t20"].episode_return.shape == (4,)
    assert evaluate.main([f"run={tmp_path / 'run'}", "evaluator.final_episodes=4"]) == 0
    capsys.readouterr()
    assert vault.metadata["episodes"] == 18 and len(vault.metadata["record_points"]) == 3
    assert str(tmp_path) not in json.dumps(vault.metadata), "no path of this machine may be published"
    assert collect.main(options) == 0
    assert "already collected" in capsys.readouterr().out

    # The directory of a run is that of one task under one configuration.
    elsewhere = [*options, f"data.vault_dir={tmp_path / 'elsewhere'}"]
    for option, said in (
        ("algo.entropy_weight=0.5", "other settings (algo.entropy_weight)"),
        ("collect.record=false", "other settings (collect.record)"),
        ("tasks.train=[lbf/6x6-2p-1f-t20]", "holds a run of lbf/5x5-2p-1f-t20"),
    ):
        assert collect.main([*elsewhere, option]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()

    def steps_of_best(run_dir):
        """8 environments take 8 steps per update; of equal evaluations the later one counts."""
        evaluations = read_progress(run_dir)["evaluations"]
        return 8 * 8 * max(evaluations, key=lambda e: (e["return"], e["update"]))["update"]

    start = [f"init_from={tmp_path / 'run'}", f"run_dir={tmp_path / 'next'}"]
    assert collect.main([*options, "tasks.train=[lbf/6x6-2p-1f-t20]", *start]) == 0
    metadata = mtmarl.read_vault(tmp_path / "vaults/lbf/6x6-2p-1f-t20.vlt/replay").metadata
    assert metadata["provenance"]["starts_from"] == {
        "algorithm": "sable", "tasks": ["lbf/5x5-2p-1f-t20"], "seed": 0, "policy": "policy_best",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(metadata)
    record = json.loads((tmp_path / "next" / "run.json").read_text())
    assert record["start"]["env_steps"] == steps_of_best(tmp_path / "run")
    assert set(record["origins"]) == {"init_from"}
    third = config.compose([*options, f"init_from={tmp_path / 'next'}"], "collect")
    begun = read_saved(third)
    played = steps_of_best(tmp_path / "run") + steps_of_best(tmp_path / "next")
    assert begun is not None and begun.env_steps == played and begun.tasks == ["lbf/6x6-2p-1f-t20"]
