"""Vaults of other libraries, written with Flashbax alone, give the steps and the batches that ours give."""

import gzip
import io
import json
import os
import stat
import tarfile
import time
import zipfile
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
from flashbax.vault import Vault as FlashbaxVault
from recordings import make_recording

from mtmarl import vault as cli
from mtmarl.data import archives
from mtmarl.data import convert as c
from mtmarl.data import vault as v
from mtmarl.data.archives import unpack
from mtmarl.data.sampling import gather_windows, make_task_data
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.types import Dims

CONNECTOR = "connector/con-5x5x3a"
AGENTS = 3


def real_recording(seed=0, steps=400):
    """As of Connector 5x5 with three agents: its sizes, its time limit, all kinds of ends."""
    rng = np.random.default_rng(seed)
    made = make_recording(seed, steps, AGENTS, 54, 5)  # episodes of at most 12 steps
    obs = rng.integers(-1, 2, made.obs.shape).astype(np.int8)
    obs[..., :4] = rng.integers(0, 5, obs[..., :4].shape)
    count = np.concatenate([np.arange(n) for n in lengths(made.first)])
    # Flags of another library do not say that an episode was cut: only real ends, and the end of the recording.
    terminal = np.append(made.first[1:], False)
    truncated = np.append(np.zeros(steps - 1, bool), True)
    zero = np.zeros(steps, np.int32)
    # An episode of Connector returns 1 at most.
    return made._replace(
        reward=made.reward / 64,
        obs=obs,
        step_count=count.astype(np.int16),
        terminal=terminal,
        truncated=truncated,
        policy_step=zero,
    )


def lengths(first):
    return np.diff(np.append(np.flatnonzero(first), len(first)))


@pytest.fixture
def ours():
    return real_recording()


@pytest.fixture
def observed(ours):
    return ours.obs * make_env(CONNECTOR).obs_scale


def write(path, leaves):
    """A Flashbax vault at path of leaves [B, T, …] (nested by dots in their names)."""
    tree = {}
    for name, leaf in leaves.items():
        at = tree
        *above, last = name.split(".")
        for key in above:
            at = at.setdefault(key, {})
        at[last] = jnp.asarray(leaf)
    steps = next(iter(leaves.values())).shape[1]
    made = FlashbaxVault(path.parent.name, tree, rel_dir=str(path.parent.parent), vault_uid=path.name)
    state = TrajectoryBufferState(experience=tree, current_index=jnp.asarray(0), is_full=jnp.asarray(True))
    assert made.write(state, source_interval=(0, steps)) == steps
    return path


def each(x, n=AGENTS):
    return np.repeat(x[:, None], n, axis=1)


def og_marl(path, r, obs, **more):
    leaves = {
        "observations": obs, "actions": r.action.astype(np.int32), "rewards": each(r.reward),
        "terminals": each(r.terminal), "truncations": each(r.truncated), "infos.legals": r.mask.astype(np.float32),
        "infos.state": np.zeros((len(obs), 3), np.float32), **more,
    }  # fmt: skip
    return write(path, {k: x[None] for k, x in leaves.items() if x is not None})


def oryx(path, r, obs, rows=1, **more):
    leaves = {
        "obs.agents_view": obs, "obs.action_mask": r.mask, "obs.step_count": each(r.step_count.astype(np.int32)),
        "action": r.action.astype(np.int32), "reward": each(r.reward), "done": each(r.first),
        "done_mask": each(r.first), **more,
    }  # fmt: skip
    return write(path, {k: x.reshape(rows, -1, *x.shape[1:]) for k, x in leaves.items() if x is not None})


def mava(path, r, obs, rows=1, **more):
    leaves = {
        "done": each(r.terminal), "action": r.action.astype(np.int32), "reward": each(r.reward), "observation": obs,
        "legal_action_mask": r.mask, **more,
    }  # fmt: skip
    return write(path, {k: x.reshape(rows, -1, *x.shape[1:]) for k, x in leaves.items()})


def assert_same(a, b, but=()):
    for field, x, y in zip(v.Recording._fields, a, b, strict=True):
        if field not in but:
            np.testing.assert_array_equal(x, y, err_msg=field)


def batches(recording, scale):
    """Windows over the whole of it, as training sees them."""
    dims = Dims(AGENTS + 1, 60, 6, 25)
    data = make_task_data([v.Vault(recording, {"task": CONNECTOR, "obs_scale": scale})], dims)
    starts = jnp.arange(0, len(recording.first) - 20, 7, dtype=jnp.int32)
    return jax.device_get(gather_windows(data, jnp.zeros_like(starts), starts, 20))


# ---------------------------------------------------------------------------------------------- layouts


def test_oryx_rows_end_where_they_were_cut(tmp_path, ours, observed):
    """That the next row begins with an episode says nothing of how the last step of a row ended."""
    begins = np.flatnonzero(ours.first)
    start, end = begins[0], begins[1] - 1  # an episode without its last step
    assert end - start >= 2
    keep = np.tile(np.arange(start, end), 2)
    r = v.Recording(*(column[keep] for column in ours))
    got = c.convert(oryx(tmp_path / "connector/con-5x5x3a.vlt/x", r, observed[keep], rows=2)).recording
    ends = [end - start - 1, 2 * (end - start) - 1]
    assert not got.terminal.any()
    np.testing.assert_array_equal(np.flatnonzero(got.truncated), ends)


@pytest.mark.parametrize("layout", [og_marl, oryx, mava])
def test_the_same_batches_as_ours(tmp_path, layout, ours, observed):
    # Observations at random do not tell what a flag means; step counts do.
    options = c.Options(flags="end" if layout is mava else None)
    converted = c.convert(layout(tmp_path / "connector/con-5x5x3a.vlt/Good", ours, observed), options)
    path = v.write_vault(
        tmp_path / "out/connector/con-5x5x3a.vlt/good", converted.recording, converted.metadata
    )
    assert converted.quality == "Good"
    back = v.read_vault(path)
    assert_same(back.recording, ours)
    assert back.recording.obs.dtype == np.int8 and back.metadata["dims"]["horizon"] == 25
    scale = make_env(CONNECTOR).obs_scale.tolist()
    jax.tree.map(
        np.testing.assert_array_equal,
        batches(back.recording, back.metadata["obs_scale"]),
        batches(ours, scale),
    )


def test_flags_shift_the_other_way_round(tmp_path, ours, observed):
    """Flags that mark the first step, under names that stand for the last: asked for, and shifted when told."""
    wrong = ours._replace(terminal=ours.first, truncated=np.zeros_like(ours.first))
    path = og_marl(tmp_path / "connector/con-5x5x3a.vlt/b", wrong, observed)
    with pytest.raises(UserError, match="--flags"):
        c.convert(path)
    assert_same(c.convert(path, c.Options(flags="start")).recording, ours)
    assert not np.array_equal(c.convert(path, c.Options(flags="end")).recording.first, ours.first)


def test_ends_at_the_horizon_are_time_limits(tmp_path, ours, observed):
    limit = int(lengths(ours.first).max())
    for layout in (oryx, mava):
        options = c.Options(task="toy/task", horizon=limit, flags="end" if layout is mava else None)
        r = c.convert(layout(tmp_path / f"x.vlt/{layout.__name__}", ours, observed), options).recording
        at_limit = (r.step_count + 1 == limit) & np.append(r.first[1:], True)
        assert at_limit.any() and r.truncated[at_limit].all() and not r.terminal[at_limit].any()
        np.testing.assert_array_equal(r.terminal | r.truncated, ours.terminal | ours.truncated)


def test_an_oryx_recording_that_jumps(tmp_path, ours, observed):
    """A rollout was cut inside an episode and the next one began inside another: no `done`, but step_count jumps."""
    inside = np.flatnonzero(~ours.first & (ours.step_count > 1))[3]
    keep = np.ones(len(ours.first), bool)
    keep[inside - 1] = False
    r = v.Recording(*(x[keep] for x in ours))
    converted = c.convert(oryx(tmp_path / "oryx/connector/con-5x5x3a", r, observed[keep]))
    got = converted.recording
    assert converted.quality == "oryx" and converted.metadata["task"] == CONNECTOR
    assert (
        got.truncated[inside - 2]
        and got.first[inside - 1]
        and got.step_count[inside - 1] == ours.step_count[inside]
    )
    assert got.first.sum() == r.first.sum() + 1 and any("jumps" in line for line in converted.remarks)
    v.write_vault(tmp_path / "out/connector/con-5x5x3a.vlt/oryx", got, converted.metadata)


def test_rows_of_a_mava_recording_are_rollouts_of_their_own(tmp_path, ours, observed):
    path = mava(tmp_path / "connector/con-5x5x3a.vlt/mava", ours, observed, rows=4)
    with pytest.raises(UserError, match="--rollout-length"):
        c.convert(path)
    with pytest.raises(UserError, match="--flags"):
        c.convert(path, c.Options(rollout_length=50))
    got = c.convert(path, c.Options(rollout_length=50, flags="end"))
    starts = np.arange(0, 400, 50)
    assert got.recording.first[starts].all()
    end = np.append(got.recording.first[1:], True)
    assert end[starts - 1].all() and got.recording.truncated[starts - 1][~ours.terminal[starts - 1]].all()
    # A limit that ended an episode of which the beginning is missing would pass for an end: no value may rest on it.
    ends = np.flatnonzero(end)
    late = np.zeros(400, bool)
    for start in starts:
        stop = ends[ends >= start][0] + 1
        late[start:stop] = stop - start < 25
    assert (ours.terminal & late).any()
    np.testing.assert_array_equal(got.recording.terminal, ours.terminal & ~late)
    assert got.recording.truncated[ours.terminal & late].all()
    vault = v.read_vault(
        v.write_vault(tmp_path / "out/connector/con-5x5x3a.vlt/m", got.recording, got.metadata)
    )
    found = v.episodes(vault.recording, 25)
    assert not found.complete[np.isin(found.start, starts)].any(), "nobody knows where these began"


def test_a_set_without_flags(tmp_path, ours, observed):
    never = np.zeros((400, AGENTS), bool)
    path = og_marl(tmp_path / "toy/task.vlt/good", ours, observed, terminals=never, truncations=never)
    with pytest.raises(UserError, match="--horizon"):
        c.convert(path)
    got = c.convert(path, c.Options(horizon=25))
    np.testing.assert_array_equal(np.flatnonzero(got.recording.first), np.arange(0, 400, 25))
    assert any("every 25" in line for line in got.remarks)


def test_agents_that_end_one_after_another(tmp_path, ours, observed):
    ends = each(ours.terminal)
    uneven = np.array([t for t in range(399) if not ours.terminal[t]])[:5]
    ends[uneven, 0] = True
    path = og_marl(tmp_path / "connector/con-5x5x3a.vlt/x", ours, observed, terminals=ends)
    with pytest.raises(UserError, match="--team-flags"):  # One agent ends twice in an episode.
        c.convert(path)
    got = c.convert(path, c.Options(team_flags="all"))
    assert_same(got.recording, ours)
    assert any("at 5 steps only some agents" in line for line in got.remarks)


# -------------------------------------------------------------------------- what is dropped or not known


def remarks_of(path, *options):
    return " ".join(c.convert(path, *options).remarks)


def test_infinite_padding_and_bad_numbers(tmp_path, ours, observed):
    obs = np.concatenate([observed, np.full((400, AGENTS, 2), -np.inf)], axis=2).astype(np.float32)
    obs[37, 1, 9] = np.nan
    got = c.convert(og_marl(tmp_path / "toy/task.vlt/x", ours, obs))
    episode = np.cumsum(ours.first) - 1
    kept = episode != episode[37]
    assert len(got.recording.first) == kept.sum() and not got.recording.obs[..., 54:].any()
    np.testing.assert_array_equal(got.recording.reward, ours.reward[kept])
    text = " ".join(got.remarks)
    assert "-inf" in text and "dropped 1 of" in text and got.recording.obs.dtype == np.float32
    v.write_vault(tmp_path / "out/toy/task.vlt/x", got.recording, got.metadata)


def test_illegal_actions_drop_their_episodes(tmp_path, ours, observed):
    mask = ours.mask.copy()
    np.put_along_axis(mask[50:51], ours.action[50:51, :, None].astype(int), False, axis=2)
    got = c.convert(
        og_marl(tmp_path / "connector/con-5x5x3a.vlt/x", ours, observed, **{"infos.legals": mask})
    )
    assert "dropped 1 of" in " ".join(got.remarks) and len(got.recording.first) < 400
    v.write_vault(tmp_path / "out/connector/con-5x5x3a.vlt/x", got.recording, got.metadata)


def test_legal_actions_that_are_not_recorded(tmp_path, ours, observed):
    path = og_marl(tmp_path / "connector/con-5x5x3a.vlt/x", ours, observed, **{"infos.legals": None})
    got = c.convert(path)
    assert (
        got.recording.mask.all() and got.recording.mask.shape[2] == 5 and "all 5 are" in " ".join(got.remarks)
    )


@pytest.mark.parametrize("before", [True, False])
def test_agent_numbers_are_dropped(tmp_path, ours, observed, before):
    ids = np.tile(np.eye(AGENTS, dtype=np.float32), (400, 1, 1))
    obs = np.concatenate([ids, observed] if before else [observed, ids], axis=2)
    got = c.convert(og_marl(tmp_path / "connector/con-5x5x3a.vlt/x", ours, obs))
    assert_same(got.recording, ours)
    assert "one-hot agent numbers" in " ".join(got.remarks)


@pytest.mark.parametrize("scale", [1.0, 1 / 25])
def test_other_scales_of_cells_are_recognised(tmp_path, ours, scale):
    obs = ours.obs.astype(np.float32)
    obs[..., :4] *= np.float32(scale)
    got = c.convert(oryx(tmp_path / "connector/con-5x5x3a.vlt/x", ours, obs))
    assert_same(got.recording, ours)
    assert got.metadata["obs_scale"] == make_env(CONNECTOR).obs_scale.tolist()


def test_rewards_of_single_agents(tmp_path, ours, observed):
    own = (ours.reward[:, None] + np.array([0.25, 0, -0.25])).astype(np.float32).astype(np.float64)
    where = tmp_path / "toy/task.vlt/x"
    path = og_marl(where, ours, observed, rewards=own.astype(np.float32))
    with pytest.raises(UserError, match="--team-reward"):
        c.convert(path)
    for how, expected in (("mean", own.mean(1)), ("sum", own.sum(1))):
        got = c.convert(path, c.Options(team_reward=how))
        np.testing.assert_allclose(got.recording.reward, expected, rtol=1e-6)
    known = c.convert(
        og_marl(tmp_path / "connector/con-5x5x3a.vlt/x", ours, observed, rewards=own.astype(np.float32))
    )
    np.testing.assert_allclose(known.recording.reward, own.mean(1), rtol=1e-6)


def test_sets_of_other_shapes(tmp_path, ours, observed):
    column = c.convert(
        og_marl(tmp_path / "connector/con-5x5x3a.vlt/a", ours, observed, actions=ours.action[..., None])
    )
    assert_same(column.recording, ours)
    with pytest.raises(UserError, match="continuous"):
        c.convert(og_marl(tmp_path / "toy/b.vlt/b", ours, observed, actions=observed[..., :2] + 0.1))
    with pytest.raises(UserError, match=r"\(3, 50, 5\), connector/con-5x5x3a has \(3, 54, 5\)"):
        c.convert(og_marl(tmp_path / "connector/con-5x5x3a.vlt/c", ours, observed[..., :50]))
    with pytest.raises(UserError, match="layouts that can be read: OG-MARL"):
        c.convert(write(tmp_path / "toy/d.vlt/d", {"speed": np.ones((1, 5))}))
    with pytest.raises(UserError, match="already"):
        c.convert(
            v.write_vault(tmp_path / "toy/e.vlt/e", ours, {"task": "toy/e", "obs_scale": 1.0, "horizon": 25})
        )
    with pytest.raises(UserError, match="--task"):
        c.convert(og_marl(tmp_path / "somewhere/x", ours, observed))


def test_damaged_vaults(tmp_path, ours, observed):
    path = og_marl(tmp_path / "toy/a.vlt/a", ours, observed)
    (path / "manifest.ocdbt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        c.convert(path)
    (path / "metadata.json").write_text("[]")
    with pytest.raises(UserError, match="not that of a Flashbax vault"):
        c.convert(path)


# --------------------------------------------------------------------------------------------- archives


def zipped(path, names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in names.items():
            packed.writestr(name, content)
    return path


def pack(folder, archive):
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))


def test_a_zip_from_end_to_end(tmp_path, capsys, ours, observed):
    for uid in ("Good", "Poor"):
        og_marl(tmp_path / f"smac/3m.vlt/{uid}", ours, observed)
    pack(tmp_path / "smac", tmp_path / "3m.zip")
    root = tmp_path / "root"
    command = ["convert", str(tmp_path / "3m.zip"), "--root", str(root)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "400 steps" in out and "policy_step is 0" in out
    assert v.verify(root) == ["smac/3m/Good", "smac/3m/Poor"]
    assert str(tmp_path) not in json.dumps(v.read_vault(root / "smac/3m.vlt/Good").metadata)
    assert cli.main(command) == 0 and capsys.readouterr().out.count("is there already, the same") == 2
    assert cli.main([*command, "--horizon", "50"]) == 2 and "--replace" in capsys.readouterr().err
    assert cli.main([*command, "--replace"]) == 0
    assert cli.main([*command, "--quality", "x"]) == 2
    assert (
        cli.main([*command, "--max-gigabytes", "0.00001"]) == 2
        and "more than 10,000" in capsys.readouterr().err
    )
    assert cli.main(["convert", str(tmp_path / "none.zip")]) == 2


def test_a_zip_that_does_not_say_its_family(tmp_path, capsys, ours, observed):
    """As OG-MARL publishes them."""
    og_marl(tmp_path / "x/3m.vlt/Good", ours, observed)
    pack(tmp_path / "x/3m.vlt", tmp_path / "3m.zip")
    command = ["convert", str(tmp_path / "3m.zip"), "--root", str(tmp_path / "root")]
    assert cli.main(command) == 2 and "--task" in capsys.readouterr().err
    assert cli.main([*command, "--task", "smac_v1"]) == 0
    assert cli.main([*command, "--task", "smac_v1/three", "--quality", "good"]) == 0
    assert v.verify(tmp_path / "root") == ["smac_v1/3m/Good", "smac_v1/three/good"]


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def nameless():
    info = zipfile.ZipInfo("x")
    info.filename = ""
    return info


@pytest.mark.parametrize(
    "names, words",
    [
        ({"../evil": b"x"}, "no place in"),
        ({"a/../../evil": b"x"}, "no place in"),
        ({"/evil": b"x"}, "no place in"),
        ({"..\\evil": b"x"}, "no place in"),
        ({"C:/evil": b"x"}, "no place in"),
        ({nameless(): b"x"}, "no place in"),
        ({link("evil"): b"/etc/passwd"}, "link"),
        ({"big": bytes(10**6)}, "more than 1,000"),
    ],
)
def test_zips_that_mean_ill(tmp_path, names, words):
    archive = zipped(tmp_path / "a.zip", names)
    with pytest.raises(UserError, match=words):
        unpack(archive, tmp_path / "out/inner", max_bytes=1000)
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name or "inner" in p.name]


def test_no_more_is_written_than_the_limit(tmp_path, monkeypatch):
    written = []

    def counting(source, out):
        for size in copy(source, out):
            written.append(size)
            yield size

    copy = archives._copy
    monkeypatch.setattr(archives, "_copy", counting)
    monkeypatch.setattr(archives, "_BLOCK", 100)
    archive = zipped(tmp_path / "a.zip", {"fits": bytes(900), "big": bytes(10**6)})
    with pytest.raises(UserError, match="more than 1,000"):
        unpack(archive, tmp_path / "out", max_bytes=1000)
    assert sum(written[-1:]) <= 900, "nothing of a file that is announced as too big"


def test_a_zip_that_lies_about_its_size(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"big": bytes(10**6)})
    content = archive.read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(UserError):
        unpack(archive, tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()


def tarred(path, *members):
    with tarfile.open(path, "w:gz") as packed:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "" if kind == tarfile.REGTYPE else content.decode()
            packed.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", tarfile.REGTYPE, b"x")],
        [("link", tarfile.SYMTYPE, b".."), ("link/evil", tarfile.REGTYPE, b"x")],
        [("evil", tarfile.LNKTYPE, b"/etc/passwd")],
        [("evil", tarfile.FIFOTYPE, b"")],
        [("evil", tarfile.REGTYPE, b"x"), ("evil", tarfile.REGTYPE, b"y")],
    ],
)
def test_tars_that_mean_ill(tmp_path, members):
    with pytest.raises(UserError):
        unpack(tarred(tmp_path / "a.tar.gz", *members), tmp_path / "out/inner")
    assert not [p for p in tmp_path.rglob("*") if "evil" in p.name or "inner" in p.name]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [8000, 2 * 10**6])
def test_a_long_header_takes_no_time(tmp_path, kind, size):
    """… which reading takes the square of its length: minutes."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, size
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as packed:
        packed.write(header.tobuf(tarfile.USTAR_FORMAT) + b"1" * size + bytes(10**4))
    began = time.perf_counter()
    for use in (archives.is_archive, lambda archive: unpack(archive, tmp_path / "out")):
        if size > archives._LONGEST_HEADER:
            with pytest.raises(UserError, match="a header of 2,000,000 bytes"):
                use(tmp_path / "a.tgz")
        else:
            with suppress(UserError):
                use(tmp_path / "a.tgz")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_checksums_of_compressed_tars_are_looked_at(tmp_path, compression):
    """They stand behind the end of the archive itself."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, f"w:{compression}") as packed:
        info = tarfile.TarInfo("x")
        info.size = 3000
        packed.addfile(info, io.BytesIO(os.urandom(3000)))
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zeros_without_end_behind_a_tar(tmp_path):
    archive = tmp_path / "a.tgz"
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        packed.write(bytes(10**4))
        for _ in range(80):
            packed.write(bytes(2**20))
    with pytest.raises(UserError, match="bytes behind its end"):
        unpack(archive, tmp_path / "out")


def test_honest_archives_are_unpacked(tmp_path):
    zipped(tmp_path / "a.zip", {"x/y.json": b"{}", "z": b"1"})
    tarred(tmp_path / "a.tgz", ("x/y.json", tarfile.REGTYPE, b"{}"), ("z", tarfile.REGTYPE, b"1"))
    for kind in ("zip", "tgz"):
        out = unpack(tmp_path / f"a.{kind}", tmp_path / kind)
        assert (out / "x/y.json").read_bytes() == b"{}" and (out / "z").read_bytes() == b"1"
        assert not os.access(out / "z", os.X_OK)
    with pytest.raises(UserError, match="neither"):
        unpack(tmp_path / "zip/z", tmp_path / "other")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    with pytest.raises(UserError):
        unpack(tmp_path / "a.zip", tmp_path / "cut")
