"""Figures of a vault, parts of it, and its numbers in other formats."""

import json

import numpy as np
import pytest
from recordings import HORIZON, make_recording, metadata, save

from mtmarl import vault as cli
from mtmarl.data import vault as v
from mtmarl.data.describe import describe, joint_keys, observation_layout
from mtmarl.data.export import export
from mtmarl.data.subset import subset
from mtmarl.errors import UserError


def made(root, seed=0, steps=600, **options):
    path, _ = save(root, seed, steps=steps, **options)
    return v.read_vault(path)


def parts(recording):
    starts = np.flatnonzero(recording.first)[1:]
    return list(zip(*(np.split(column, starts) for column in recording), strict=True))


# ---------------------------------------------------------------------------------------------- describe


def test_figures_against_a_loop(tmp_path):
    vault = made(tmp_path)
    r, figures = vault.recording, describe(vault, {"reference": 3.0, "random": -1.0})
    whole = v.episodes(r, HORIZON).complete
    totals = np.array([float(e[3].astype(np.float64).sum()) for e in parts(r)])[whole]
    assert figures["episodes"] == {"whole": int(whole.sum()), "cut": int((~whole).sum())}
    assert (
        figures["return"]["mean"] == pytest.approx(totals.mean()) and figures["return"]["max"] == totals.max()
    )
    assert figures["expert"]["share"] == np.mean(totals >= -1.0 + 0.9 * 4.0)
    assert sum(figures["histogram"]["counts"]) == whole.sum()
    assert [a["taken"] for a in figures["actions"]] == [(r.action == a).sum() for a in range(4)]
    assert [a["legal"] for a in figures["actions"]] == r.mask.sum((0, 1)).tolist()
    assert sum(p["episodes"] for p in figures["policies"]) == whole.sum()
    json.dumps(figures)


def test_coverage_counts_distinct_joint_pairs(tmp_path):
    rng = np.random.default_rng(0)
    r = make_recording(0, 3000, agents=2, features=2, actions=3)
    # Few values, so that most pairs come again and again, some differing in one agent's action alone.
    r = r._replace(obs=rng.integers(-1, 1, r.obs.shape).astype(np.int8), mask=np.ones_like(r.mask))
    r = r._replace(action=rng.integers(0, 3, r.action.shape).astype(np.int8))
    path = v.write_vault(tmp_path / "lbf/toy.vlt/x", r, metadata(features=2))
    figures = describe(v.read_vault(path))
    rows = [(o.tobytes(), a.tobytes()) for o, a in zip(r.obs, r.action, strict=True)]
    assert figures["joint_pairs"] == len(set(rows)) and figures["joint_observations"] == len(
        {o for o, _ in rows}
    )
    for steps, share in figures["coverage"]:
        assert share == pytest.approx(len(set(rows[:steps])) / steps)
    assert figures["coverage"][-1][0] == 3000 and figures["expert"] is None


def test_keys_tell_apart_what_differs_in_one_bit():
    obs = np.zeros((200_000, 2, 8), np.int8)
    obs.reshape(len(obs), -1)[:, :3] = np.arange(len(obs))[:, None] >> np.array([0, 8, 16]) & 255
    r = make_recording(0, 1, 2, 8)._replace(
        obs=obs, action=np.zeros((len(obs), 2), np.int8), first=np.ones(len(obs), bool)
    )
    for column in (obs, obs.astype(np.float32)):
        assert len(np.unique(joint_keys(r._replace(obs=column))[0])) == len(obs)


def test_the_meaning_of_features():
    scale = [0.5] * 36
    known = observation_layout({"task": "lbf/8x8-2p-2f", "obs_scale": scale})
    assert known[0] == ["food 0: row / 16", 0.5] and len(known) == 36
    assert "not recorded" in observation_layout({"task": "mpe/spread", "obs_scale": [1.0]})[0][0]
    own = observation_layout({"task": "mpe/spread", "obs_scale": [1.0], "observation_fields": ["speed"]})
    assert own == [["speed", 1.0]]


def test_describe_prints_and_plots(tmp_path, capsys):
    made(tmp_path)
    v.write_reference(tmp_path, "lbf/toy", {"reference": 3.0, "random": -1.0})
    root = ["--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["describe", "lbf/toy", *root]) == 0
    out = capsys.readouterr().out
    for part in ("600", "whole", "expert episodes", "joint coverage", "taken where legal", "…"):
        assert part in out, part
    assert (tmp_path / "out/lbf/toy/replay.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["describe", "lbf/toy", *root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expert"]["reference"] == 3.0


# ------------------------------------------------------------------------------------------------ subset


def test_less_steps_spread_over_the_recording(tmp_path):
    vault = made(tmp_path)
    small = subset(vault, steps=200)
    whole, kept = parts(vault.recording), parts(small.recording)
    at = [next(i for i, e in enumerate(whole) if all(map(np.array_equal, e, k))) for k in kept]
    assert at == sorted(at) and len(small.recording.first) <= 200
    assert len(small.recording.first) + max(len(e[0]) for e in whole) > 180, "not much less than asked for"
    gaps = np.diff([*at, len(whole)])
    assert gaps.max() - gaps.min() <= 1
    with pytest.raises(UserError, match="no episode fits"):
        subset(vault, steps=0)


def test_a_part_by_the_policy_that_played(tmp_path):
    vault = made(tmp_path)
    low = subset(vault, policy_steps=(0, 50_000)).recording
    starts = vault.recording.policy_step[vault.recording.first] <= 50_000
    assert len(parts(low)) == starts.sum() and low.policy_step[low.first].max() <= 50_000
    with pytest.raises(UserError, match="it was recorded at"):
        subset(vault, policy_steps=(200_000, 300_000))


def test_a_part_by_quantiles_of_return(tmp_path):
    vault = made(tmp_path)
    found = v.episodes(vault.recording, HORIZON)
    order = np.sort(found.total[found.complete])
    thirds = [subset(vault, returns=(a / 3, (a + 1) / 3)) for a in range(3)]
    totals = [v.episodes(t.recording, HORIZON) for t in thirds]
    assert all(t.complete.all() for t in totals)
    np.testing.assert_allclose(np.concatenate([np.sort(t.total) for t in totals]), order)
    for wrong in ((0.5, 0.5), (-0.1, 1), (0.7, 0.2)):
        with pytest.raises(UserError, match="quantiles"):
            subset(vault, returns=wrong)


def test_equal_returns_are_still_divided(tmp_path):
    r = make_recording(1, 600)
    path = v.write_vault(tmp_path / "lbf/toy.vlt/x", r._replace(reward=np.zeros_like(r.reward)), metadata())
    vault = v.read_vault(path)
    whole = int(v.episodes(vault.recording, HORIZON).complete.sum())
    halves = [subset(vault, returns=of) for of in ((0, 0.5), (0.5, 1))]
    counts = [len(parts(h.recording)) for h in halves]
    assert sum(counts) == whole and abs(counts[0] - counts[1]) <= 1


def test_subset_writes_a_vault_of_its_own(tmp_path, capsys):
    made(tmp_path)
    root = ["--root", str(tmp_path)]
    assert cli.main(["subset", "lbf/toy", "best", "--returns", "0.5:1", "--steps", "100", *root]) == 0
    vault = v.read_vault(tmp_path / "lbf/toy.vlt/best")
    assert vault.metadata["subset"]["returns"] == [0.5, 1.0] and vault.metadata["subset"]["of_steps"] == 600
    assert v.verify(tmp_path) == ["lbf/toy/best", "lbf/toy/replay"], "an unlisted vault is listed along"
    assert cli.main(["subset", "lbf/toy/replay", "best", "--steps", "50", *root]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["subset", "lbf/toy/replay", "x", *root]) == 2
    assert cli.main(["subset", "lbf/toy", "x", "--steps", "50", *root]) == 2  # of which of the two?
    assert "choose one of" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ export


@pytest.mark.parametrize("scaled", [False, True])
def test_numpy(tmp_path, scaled):
    vault = made(tmp_path)
    with np.load(export(vault, tmp_path / "out/toy.npz", scaled)) as back:
        about = json.loads(str(back["metadata"]))
        for name, column in vault.recording._asdict().items():
            if scaled and name == "obs":
                column = column * np.asarray(vault.metadata["obs_scale"], np.float32)
            assert back[name].dtype == column.dtype
            np.testing.assert_array_equal(back[name], column)
    assert about["task"] == "lbf/toy" and about["observations_are_scaled"] is scaled
    assert len(about["observation_layout"]) == 5


def test_parquet(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    vault = made(tmp_path)
    table = pq.read_table(export(vault, tmp_path / "toy.parquet"))
    assert table.num_rows == 600 and json.loads(table.schema.metadata[b"mtmarl"])["task"] == "lbf/toy"
    for name, column in vault.recording._asdict().items():
        back = table.column(name).combine_chunks()
        shape = []
        while hasattr(back.type, "list_size"):
            shape.append(back.type.list_size)
            back = back.flatten()
        back = back.to_numpy(zero_copy_only=False).reshape(-1, *shape)
        assert back.dtype == column.dtype, name
        np.testing.assert_array_equal(back, column, err_msg=name)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch, capsys):
    made(tmp_path)
    command = ["export", "lbf/toy", str(tmp_path / "toy.npz"), "--root", str(tmp_path)]
    assert cli.main(command) == 0
    assert cli.main(command) == 2 and "is there already" in capsys.readouterr().err
    assert cli.main([*command[:2], str(tmp_path / "toy.csv"), *command[3:]]) == 2

    def full(*_, **__):
        raise OSError("disk")

    monkeypatch.setattr("mtmarl.data.export.np.savez_compressed", full)
    with pytest.raises(OSError, match="disk"):
        export(v.read_vault(tmp_path / "lbf/toy.vlt/replay"), tmp_path / "other.npz")
    assert not list(tmp_path.glob("*other*")) and not list(tmp_path.glob(".*other*"))
