"""Own data: what is given is what is read, and bad input is named by field and index with nothing written."""

import json

import numpy as np
import pytest
from recordings import save

import mtmarl
from mtmarl import vault as cli
from mtmarl.data import imports
from mtmarl.data import vault as v
from mtmarl.errors import UserError

HORIZON, AGENTS, WIDTH, ACTIONS = 5, 3, 4, 6
LENGTHS = (5, 3, 5, 1)  # the second and the last ended by their state
ENDS = np.cumsum(LENGTHS) - 1
STEPS = sum(LENGTHS)


def logs(floats=True, **more):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(STEPS, AGENTS, WIDTH)) if floats else rng.integers(-3, 4, (STEPS, AGENTS, WIDTH))
    return {
        "obs": obs.astype(np.float32 if floats else np.int64),
        "action": np.append(rng.integers(0, ACTIONS, (STEPS - 1, AGENTS)), [[ACTIONS - 1] * AGENTS], axis=0),
        "reward": rng.normal(size=STEPS),
        "episode": np.repeat([7, 3, 9, 4], LENGTHS),
        **more,
    }


def flags():
    terminated, truncated = np.zeros((2, STEPS), bool)
    terminated[ENDS[[1, 3]]] = truncated[ENDS[[0, 2]]] = True
    return {"terminated": terminated, "truncated": truncated}


def changed(name, index, value):
    def spoil(arrays):
        column = np.array(arrays[name])
        column[index] = value
        return arrays | {name: column}

    return spoil


@pytest.mark.parametrize("floats", [True, False])
def test_what_is_given_is_what_is_read(tmp_path, floats):
    arrays = logs(floats)
    path = mtmarl.write_vault(tmp_path, "sim/n3", **arrays, horizon=HORIZON)
    assert path == tmp_path / "sim/n3.vlt/replay" and v.verify(tmp_path) == ["sim/n3/replay"]
    recording, metadata, _ = mtmarl.read_vault(path)
    assert recording.obs.dtype == (np.float32 if floats else np.int8)
    np.testing.assert_array_equal(
        recording.obs * np.asarray(metadata["obs_scale"], np.float32), arrays["obs"]
    )
    np.testing.assert_array_equal(recording.action, arrays["action"])
    np.testing.assert_array_equal(recording.reward, arrays["reward"].astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(recording.terminal), ENDS[[1, 3]])
    np.testing.assert_array_equal(np.flatnonzero(recording.truncated), ENDS[[0, 2]])
    np.testing.assert_array_equal(recording.step_count, np.concatenate([np.arange(n) for n in LENGTHS]))
    assert metadata["dims"] == {"agents": AGENTS, "obs": WIDTH, "actions": ACTIONS, "horizon": HORIZON}
    assert metadata["episodes"] == len(LENGTHS) and recording.mask.all()


def test_ways_to_say_where_episodes_end_agree(tmp_path):
    number = logs()["episode"]
    without = {name: value for name, value in logs().items() if name != "episode"}
    ways = {
        "number": {"episode": number},
        "both": {"episode": number, **flags()},
        "flags": flags(),
        "ends": {"terminated": flags()["terminated"]},
        "cuts": {"episode": number, "truncated": flags()["truncated"]},
        "text": {"episode": np.array([f"run {n}" for n in number])},
    }
    hashes = {
        v.identity(mtmarl.write_vault(tmp_path / way, "sim/n3", **without, **given, horizon=HORIZON))
        for way, given in ways.items()
    }
    assert len(hashes) == 1


def test_a_recording_that_stops_within_an_episode_is_cut_there(tmp_path):
    arrays = {name: value for name, value in logs().items() if name != "episode"}
    path = mtmarl.write_vault(tmp_path, "sim/n3", **arrays, truncated=np.zeros(STEPS, bool), horizon=40)
    recording, metadata, _ = v.read_vault(path)
    assert recording.truncated[-1] and not recording.terminal.any() and metadata["episodes"] == 0


BAD = {
    "nan": (changed("obs", (4, 1, 2), np.nan), r"obs\[4, 1, 2\] is not finite"),
    "infinity": (changed("reward", 6, np.inf), r"reward\[6\] is not finite"),
    "too wide": (
        lambda a: changed("obs", (4, 1, 2), 1e39)(a | {"obs": a["obs"].astype(np.float64)}),
        r"obs\[4, 1, 2\] does not fit float32",
    ),
    "action": (changed("action", (5, 2), -1), r"action\[5, 2\] is outside 0 … 5"),
    "continuous": (lambda a: changed("action", (5, 2), 0.5)(a | {"action": a["action"] * 1.0}), r"action\[5, 2\]"),
    "illegal": (
        lambda a: a | {"action_mask": np.arange(ACTIONS) != a["action"][7, 1] * np.ones((STEPS, AGENTS, 1))},
        r"action\[\d+, \d\] is illegal by the mask",
    ),
    "mask": (lambda a: a | {"action_mask": np.full((STEPS, AGENTS, ACTIONS), 2)}, r"action_mask\[0, 0, 0\]"),
    "steps": (lambda a: a | {"reward": a["reward"][1:]}, r"reward has shape \(13,\); obs .* needs \(14\)"),
    "agents": (lambda a: a | {"action": a["action"][:, 1:]}, r"action has shape \(14, 2\)"),
    "axes": (lambda a: a | {"obs": a["obs"][:, 0]}, r"obs has shape \(14, 4\)"),
    "ragged": (lambda a: a | {"obs": [[1.0], [1.0, 2.0]]}, "obs is not a regular array"),
    "text": (lambda a: a | {"reward": ["a"] * STEPS}, "reward is <U1"),
    "number again": (changed("episode", slice(8, 13), 7), r"episode\[8\] comes back"),
    "flag inside": (
        lambda a: changed("terminated", 2, True)(a | flags()), r"episode\[2\] goes on after a step with an end flag",
    ),
    "no flag": (lambda a: changed("terminated", ENDS[1], False)(a | flags()), r"episode\[7\] ends without a flag"),
    "too long": (lambda a: a | {"episode": np.zeros(STEPS)}, r"episode\[5\] is in an episode of more than 5"),
    "too long by flags": (
        lambda a: {k: x for k, x in changed("truncated", 4, False)(a | flags()).items() if k != "episode"},
        r"truncated\[5\] is in an episode of more than 5",
    ),
    "no ends": (lambda a: {k: x for k, x in a.items() if k != "episode"}, "where do episodes end"),
}  # fmt: skip


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, spoil, message):
    with pytest.raises(UserError, match=message) as error:
        mtmarl.write_vault(tmp_path / "root", "sim/n3", **spoil(logs()), horizon=HORIZON)
    assert "\n" not in str(error.value) and not (tmp_path / "root").exists()


def test_without_horizon_the_end_of_an_episode_is_not_guessed(tmp_path):
    with pytest.raises(UserError, match="give horizon"):
        mtmarl.write_vault(tmp_path, "sim/n3", **logs())
    with pytest.raises(UserError, match="is there already"):
        for _ in range(2):
            mtmarl.write_vault(tmp_path, "sim/n3", **logs(), **flags())


def test_sizes_of_a_known_task_are_checked(tmp_path):
    with pytest.raises(UserError, match="holds .agents, observation, actions. .3, 4, 6."):
        mtmarl.write_vault(tmp_path, "lbf/8x8-2p-2f-coop", **logs(), horizon=HORIZON)


def write_parquet(file, arrays):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: pa.array(np.asarray(x).tolist()) for name, x in arrays.items()}), file)


def test_files_are_imported_and_a_bad_one_stops_nothing(tmp_path, capsys):
    arrays = {"actions": logs()["action"], "rewards": logs()["reward"], "other": np.zeros(3)}
    arrays |= {name: logs()[name] for name in ("obs", "episode")}
    np.savez(tmp_path / "a.npz", **arrays)
    del arrays["other"]
    write_parquet(tmp_path / "b.parquet", arrays)
    (tmp_path / "c.npz").write_text("nonsense")
    np.savez(tmp_path / "d.npz", **{**arrays, "rewards": np.full(STEPS, np.nan)})
    root = tmp_path / "root"
    command = ["import", *(str(tmp_path / f) for f in ("c.npz", "a.npz", "d.npz", "b.parquet", "e.npz"))]
    command += ["--task", "sim/{stem}", "--horizon", str(HORIZON), "--root", str(root)]
    command += ["--map", "action=actions,reward=rewards"]
    for again in (False, True):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert out.count("is there already, the same") == 2 * again
        assert "3 of 5 files not imported" in err and f"{tmp_path / 'd.npz'}: reward[0] is not finite" in err
    assert v.verify(root) == ["sim/a/replay", "sim/b/replay"]
    recordings = [v.read_vault(v.vault_path(root, f"sim/{name}", "replay")).recording for name in "ab"]
    assert all(map(np.array_equal, *recordings))
    for words in (["ls"], ["describe", "sim/a", "--json"], ["verify"]):
        assert cli.main([*words, "--root", str(root)]) == 0
    assert "sim/a/replay" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, message",
    [
        (["--map", "action=actions"], "no array 'actions'; it has"),
        (["--map", "acting=action"], "no such field"),
        (["--task", "n3"], "give --task family/scenario"),
        (["--quality", "a b"], "not a legal name"),
    ],
)
def test_options_of_import(tmp_path, capsys, more, message):
    np.savez(tmp_path / "a.npz", **logs())
    command = ["import", str(tmp_path / "a.npz"), "--task", "sim/n3", "--root", str(tmp_path / "root"), *more]
    assert cli.main(command) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_two_files_of_one_task(tmp_path, capsys):
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", **logs())
    files = [str(tmp_path / f"{name}.npz") for name in "ab"]
    command = ["import", *files, "--task", "sim/n3", "--horizon", "5", "--root", str(tmp_path / "root")]
    assert cli.main(command) == 2 and "put {stem} into --task" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_an_export_comes_back_as_the_same_vault(tmp_path, ending):
    path, _ = save(tmp_path / "old", steps=50)
    file = tmp_path / f"toy.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    assert cli.main(["export", "lbf/toy", str(file), "--root", str(tmp_path / "old")]) == 0
    imports.import_files([file], tmp_path / "new", "sim/toy")
    old, new = v.read_vault(path), v.read_vault(v.vault_path(tmp_path / "new", "sim/toy", "replay"))
    for field, a, b in zip(v.Recording._fields, old.recording, new.recording, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=field)
    different = {k for k in old.metadata if json.dumps(old.metadata[k]) != json.dumps(new.metadata[k])}
    assert different == {"task", "contents"} and old.metadata.keys() == new.metadata.keys()


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04N.", b"PK\x03\x04"])
def test_a_file_that_is_no_archive_of_arrays_is_named(tmp_path, capsys, content):
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    assert cli.main(["import", str(file), "--task", "toy/a", "--root", str(tmp_path / "root")]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {file}: damaged, or not written by numpy.savez; write it again\n"


def test_a_file_of_other_sizes_than_its_task_is_named(tmp_path, capsys):
    file = tmp_path / "a.npz"
    np.savez(
        file,
        obs=np.zeros((4, 2, 3)),
        action=np.zeros((4, 2)),
        reward=np.zeros(4),
        terminated=np.arange(4) > 2,
    )
    command = ["import", str(file), "--task", "lbf/8x8-2p-2f-coop", "--root", str(tmp_path / "root")]
    assert cli.main(command) == 2 and capsys.readouterr().err.startswith(f"error: {file}: holds (agents")
