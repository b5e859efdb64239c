"""Which tasks a collection leaves alone, and how it divides its updates."""

import json

import pytest

from mtmarl import build, collect, config
from mtmarl.data import vault
from mtmarl.runs import resume
from mtmarl.training import collection, loop
from tests.unit.data.recordings import save

TASK = "lbf/5x5-2p-1f-t20"


@pytest.mark.parametrize(
    "there, options, collected",
    [
        ([], [], True),
        (["replay"], [], False),
        (["other"], [], True),
        (["expert", "medium"], [], True),
        # A root that leaves one of them out, as the shipped one does: its others are not written over.
        (["expert", "medium"], ["collect.single_policies=true"], False),
        ([], ["collect.record=false"], False),
    ],
)
def test_what_is_there_is_not_written_over(tmp_path, monkeypatch, capsys, there, options, collected):
    vault.write_reference(tmp_path, TASK, {"reference": 1.0, "random": 0.0})
    for quality in there:
        vault.vault_path(tmp_path, TASK, quality).mkdir(parents=True)
    begun = []
    monkeypatch.setattr(collection, "collect_task", lambda cfg, task, root, prepare: begun.append(task))
    assert collect.main(["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={tmp_path}", *options]) == 0
    assert begun == ([TASK] if collected else [])
    if not collected:
        assert ("already collected" in (said := capsys.readouterr().out)) and all(q in said for q in there)


def test_what_a_collection_left_out_is_said_not_collected_beside_it(tmp_path, capsys):
    vault.write_reference(tmp_path, TASK, {"reference": 1.0, "random": 0.0})
    vault.vault_path(tmp_path, TASK, "replay").mkdir(parents=True)
    options = ["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={tmp_path}", "collect.single_policies=true"]
    assert collect.main(options) == 0
    assert "not expert, medium, recorded along with training alone" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["+algo=mt_oryx"], ["+algo=sable", "sinks=[jsonn]"]])
def test_a_refused_command_leaves_nothing(tmp_path, capsys, wrong):
    options = [f"+tasks={TASK}", f"data.vault_dir={tmp_path / 'vaults'}", f"run_dir={tmp_path / 'run'}"]
    assert collect.main([*wrong, *options]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_collection_that_was_cut_short_is_ended(tmp_path, monkeypatch, capsys):
    """A reference and a first vault may be there before all that it writes is."""
    root, run_dir = tmp_path / "vaults", tmp_path / "run"
    vault.write_reference(root, TASK, {"reference": 1.0, "random": 0.0})
    path, _ = save(root, task=TASK)
    about = json.loads((path / vault.METADATA).read_text())
    (path / vault.METADATA).write_text(json.dumps({**about, "record_points": [1]}))
    options = ["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={root}", f"run_dir={run_dir}"]
    begun = []
    monkeypatch.setattr(collection, "collect_task", lambda cfg, task, root, prepare: begun.append(task))
    assert collect.main(options) == 0 and not begun
    cfg = config.compose(options, "collect")
    resume.write_run(run_dir, cfg, "collect", [TASK], [])
    assert collect.main(options) == 0 and begun == [TASK]
    (run_dir / "progress.json").write_text(json.dumps({"evaluations": [], "minutes": 1.0, "written": True}))
    assert collect.main(options) == 0 and begun == [TASK]
    (run_dir / "progress.json").unlink()
    assert collect.main([*options, "algo.gamma=0.5"]) == 0 and begun == [TASK], (
        "one with other settings is another"
    )


def collected_by(root, seed):
    """What a collection of that seed leaves."""
    path, _ = save(root, task=TASK)
    about = json.loads((path / vault.METADATA).read_text())
    about |= {"record_points": [1], "provenance": {"algorithm": "sable", "seed": seed}}
    (path / vault.METADATA).write_text(json.dumps(about))
    vault.write_reference(root, TASK, {"reference": 1.0, "random": 0.0, "algorithm": "sable", "seed": seed})


@pytest.mark.parametrize("seed, begins", [(0, True), (1, False)])
def test_vault_and_reference_stay_of_one_collection(tmp_path, monkeypatch, capsys, seed, begins):
    """One that was stopped, and goes on when another has collected the task, does not write over its vault alone."""
    root, run_dir = tmp_path / "vaults", tmp_path / "run"
    collected_by(root, 0)
    options = [
        "+algo=sable",
        f"+tasks={TASK}",
        f"data.vault_dir={root}",
        f"run_dir={run_dir}",
        f"seed={seed}",
    ]
    resume.write_run(run_dir, config.compose(options, "collect"), "collect", [TASK], [])
    begun = []
    monkeypatch.setattr(collection, "collect_task", lambda cfg, task, root, prepare: begun.append(task))
    assert collect.main(options) == 0 and bool(begun) == begins
    assert begins or "already collected" in capsys.readouterr().out


def test_what_another_process_collects_while_this_one_waits_is_left_alone(tmp_path, monkeypatch, capsys):
    root = tmp_path / "vaults"
    online = build.prepare_collection

    def slowly(cfg, task):
        job = online(cfg, task)
        collected_by(root, 0)
        return job

    monkeypatch.setattr(build, "prepare_collection", slowly)
    options = [
        "+algo=sable",
        f"+tasks={TASK}",
        f"data.vault_dir={root}",
        f"run_dir={tmp_path / 'run'}",
        "seed=1",
    ]
    assert collect.main(options) == 0
    assert "collected meanwhile by another process" in capsys.readouterr().out
    assert vault.verify(root) == [f"{TASK}/replay"]


def test_the_reference_of_another_collection_stays(tmp_path, capsys):
    ours = {"algorithm": "sable", "seed": 0, "env_steps": 100, "reference": 0.9}
    kept = lambda: vault.read_references(tmp_path)[TASK]["reference"]
    collection.write_reference(tmp_path, TASK, ours)
    collection.write_reference(tmp_path, TASK, {**ours, "reference": 0.8})
    assert kept() == 0.8
    collection.write_reference(tmp_path, TASK, {**ours, "algorithm": "qmix", "reference": 0.2})
    assert kept() == 0.8
    assert "kept the reference return of lbf/5x5-2p-1f-t20, 0.800 of sable" in capsys.readouterr().out


def test_vaults_are_written_where_they_are_looked_for_first(tmp_path, monkeypatch):
    roots = []
    monkeypatch.setenv("MTMARL_VAULTS", str(tmp_path))
    monkeypatch.setattr(collection, "collect_task", lambda cfg, task, root, prepare: roots.append(root))
    assert collect.main(["+algo=sable", f"+tasks={TASK}"]) == 0
    assert roots == [tmp_path.resolve()]


def test_a_task_without_its_reference_is_unfinished(tmp_path, monkeypatch):
    vault.vault_path(tmp_path, TASK, "replay").mkdir(parents=True)
    begun = []
    monkeypatch.setattr(collection, "collect_task", lambda cfg, task, root, prepare: begun.append(task))
    assert collect.main(["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={tmp_path}"]) == 0
    assert begun == [TASK]


def test_a_vault_from_elsewhere_is_not_written_over(tmp_path, monkeypatch, capsys):
    """One that was converted has no reference either."""
    path, _ = save(tmp_path, task=TASK)
    monkeypatch.setattr(
        collection, "collect_task", lambda cfg, task, root, prepare: pytest.fail("it is collected")
    )
    assert collect.main(["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={tmp_path}"]) == 2
    assert f"error: {path}: a vault that was not collected here" in capsys.readouterr().err
    assert vault.read_vault(path).metadata["task"] == TASK


@pytest.mark.parametrize("quality", ["expert", "medium"])
def test_what_is_of_all_training_is_not_called_that_of_one_policy(tmp_path, monkeypatch, capsys, quality):
    monkeypatch.setattr(
        collection, "collect_task", lambda cfg, task, root, prepare: pytest.fail("it is collected")
    )
    options = ["+algo=sable", f"+tasks={TASK}", f"data.vault_dir={tmp_path}", f"data.quality={quality}"]
    assert collect.main(options) == 2
    assert "collect.single_policies=true" in capsys.readouterr().err


@pytest.mark.parametrize("warmup", [0, 3, 5])
def test_a_warm_up_lasts_as_long_as_it_says(warmup):
    """Its end is where a chunk ends, however few updates it is."""
    cfg = config.compose(["+algo=sable", "+tasks=lbf_5", f"algo.critic_warmup={warmup}"], "collect")
    job = build.prepare_collection(cfg, TASK)
    assert loop.phase_ends(job.algo, job.plan)[:-1] == ([warmup] if warmup else [])
