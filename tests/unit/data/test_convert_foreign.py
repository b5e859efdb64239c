"""Foreign vaults of known truth: a conversion equals it, or is refused in one line."""

import resource
import signal

import numpy as np
import pytest
from test_convert import AGENTS, CONNECTOR, each, lengths, mava, og_marl, oryx, real_recording

from mtmarl import vault as cli
from mtmarl.data import convert as c
from mtmarl.data import vault as v
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError

STEPS = 240
OG, ORYX, MAVA = og_marl, oryx, mava


@pytest.fixture
def truth():
    return real_recording(3, STEPS)


@pytest.fixture
def observed(truth):
    return truth.obs * make_env(CONNECTOR).obs_scale


def at(tmp_path, task=CONNECTOR, quality="Good"):
    family, scenario = task.split("/")
    return tmp_path / "in" / family / f"{scenario}.vlt" / quality


def equals_or_refuses(path, truth, options=c.Options(), but=()):  # noqa: B008
    """Whether it was converted; then first, ends, actions and rewards are the truth."""
    try:
        got = c.convert(path, options).recording
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 800
        return False
    for name in {"first", "terminal", "truncated", "action", "reward", "mask"} - set(but):
        np.testing.assert_array_equal(getattr(got, name), getattr(truth, name), err_msg=name)
    return True


def ends(truth):
    return truth.terminal | truth.truncated


# ------------------------------------------------------------------------------------------ what flags mean


@pytest.mark.parametrize("start", [0, 1, None])
@pytest.mark.parametrize("meaning", ["start", "end"])
def test_step_counts_tell_what_a_flag_means(tmp_path, truth, observed, meaning, start):
    """Whichever it is, and whether counts begin at 0 or 1; without them, and with observations at random, asked."""
    done = each(truth.first if meaning == "start" else truth.terminal)
    count = None if start is None else each(truth.step_count.astype(np.int32) + start)
    path = oryx(at(tmp_path), truth, observed, done=done, **{"obs.step_count": count})
    if start is None:
        with pytest.raises(UserError, match="--flags"):
            c.convert(path)
        assert equals_or_refuses(path, truth, c.Options(flags=meaning))
        return
    assert equals_or_refuses(path, truth)
    wrong = "end" if meaning == "start" else "start"
    with pytest.raises(UserError, match="contradicts"):
        c.convert(path, c.Options(flags=wrong))


@pytest.mark.parametrize("meaning", ["start", "end"])
def test_observations_that_change_where_episodes_begin(tmp_path, truth, meaning):
    """What a real environment shows: little changes within an episode. It decides where nothing else does."""
    episode = np.cumsum(truth.first)
    obs = (np.arange(54) * 0.01 + episode[:, None, None] * 7.0 + truth.step_count[:, None, None] * 0.1).repeat(
        AGENTS, 1
    ).astype(np.float32)  # fmt: skip
    done = each(truth.first if meaning == "start" else truth.terminal)
    task = "toy/grid"
    assert equals_or_refuses(mava(at(tmp_path, task), truth, obs, done=done), truth, c.Options(horizon=25))
    # OG-MARL's flags mark ends: if they do not, that is asked.
    flags = {"terminals": done, "truncations": np.zeros_like(done)}
    path = og_marl(at(tmp_path, task, "og"), truth, obs, **flags)
    if meaning == "start":
        with pytest.raises(UserError, match="--flags"):
            c.convert(path)
    assert equals_or_refuses(path, truth, c.Options(flags=meaning))


def test_returns_that_are_not_possible(tmp_path, truth, observed):
    """Each episode returns 1, the most there is, with its last step: only one reading of the flags allows that."""
    last = ends(truth)
    reward = np.where(last, np.where(lengths(truth.first)[np.cumsum(truth.first) - 1] > 1, 1, 0.4), 0)
    rewarded = truth._replace(reward=reward.astype(np.float32))
    done = each(truth.terminal)
    path = oryx(at(tmp_path), rewarded, observed, done=done, **{"obs.step_count": None})
    assert equals_or_refuses(path, rewarded)
    double = rewarded._replace(reward=rewarded.reward * 2)
    with pytest.raises(UserError, match="an episode returns 2"):
        c.convert(og_marl(at(tmp_path, quality="double"), double, observed))


def test_a_flag_without_a_reset_and_a_reset_without_a_flag(tmp_path, truth, observed):
    inside = np.flatnonzero(~truth.first[:-1] & ~truth.first[1:])[5]
    for name, where, value in (("extra", inside, True), ("missing", np.flatnonzero(truth.first)[4], False)):
        done = each(truth.first)
        done[where] = value
        with pytest.raises(UserError, match="step counts"):
            c.convert(oryx(at(tmp_path, quality=name), truth, observed, done=done))


def test_episodes_longer_than_the_time_limit(tmp_path, truth, observed):
    never = np.zeros((STEPS, AGENTS), bool)
    few = never.copy()
    few[[99, 199]] = True
    with pytest.raises(UserError, match="time limit is 25"):
        c.convert(og_marl(at(tmp_path), truth, observed, terminals=few, truncations=never))
    with pytest.raises(UserError, match="--horizon"):  # No boundary is invented where no flag is.
        c.convert(og_marl(at(tmp_path, quality="none"), truth, observed, terminals=never, truncations=never))
    with pytest.raises(UserError, match="--horizon"):
        c.convert(mava(at(tmp_path, "toy/a"), truth, observed))


# ---------------------------------------------------------------------------------------------- the agents


@pytest.mark.parametrize("sticky", [False, True])
def test_agents_that_end_apart(tmp_path, truth, observed, sticky):
    flags = each(ends(truth))
    long = np.flatnonzero(ends(truth) & ~truth.first)
    flags[long - 1, 0] = True
    flags[long, 0] = sticky
    more = {"terminals": flags & each(truth.terminal | np.roll(truth.terminal, -1)), "truncations": flags}
    more["truncations"] = flags & ~more["terminals"]
    assert equals_or_refuses(og_marl(at(tmp_path), truth, observed, **more), truth)


def test_an_agent_that_is_never_flagged(tmp_path, truth, observed):
    flags = each(truth.terminal)
    flags[:, 2] = False
    path = og_marl(at(tmp_path, "toy/a"), truth, observed, terminals=flags, truncations=np.zeros_like(flags))
    with pytest.raises(UserError, match="agents 2 are never flagged.*--team-flags"):
        c.convert(path)
    assert equals_or_refuses(path, truth, c.Options(team_flags="any"))


# ----------------------------------------------------------------------------------------- shapes and types


def test_axes_of_one(tmp_path, truth, observed):
    more = {
        "actions": truth.action[..., None].astype(np.int64), "rewards": each(truth.reward)[..., None],
        "terminals": truth.terminal[:, None], "truncations": each(truth.truncated)[..., None],
    }  # fmt: skip
    assert equals_or_refuses(og_marl(at(tmp_path), truth, observed, **more), truth)
    assert equals_or_refuses(
        og_marl(at(tmp_path, quality="team"), truth, observed, rewards=truth.reward[:, None]), truth
    )


@pytest.mark.parametrize("agents", [slice(None), 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_not_finite(tmp_path, truth, observed, agents, bad):
    """The episode goes, and nothing is asked."""
    rewards = each(truth.reward)
    rewards[50, agents] = bad
    got = c.convert(og_marl(at(tmp_path, "mpe/spread"), truth, observed, rewards=rewards))
    episode = np.cumsum(truth.first)
    np.testing.assert_array_equal(got.recording.reward, truth.reward[episode != episode[50]])
    assert any("dropped 1 of" in line for line in got.remarks)


def test_one_infinity_is_no_padding(tmp_path, truth, observed):
    obs = observed.copy()
    obs[50, 1, 9] = -np.inf
    got = c.convert(og_marl(at(tmp_path), truth, obs))
    assert any("dropped 1 of" in line for line in got.remarks)


def test_small_features_stay(tmp_path, truth, observed):
    obs = observed + np.float32(4e-4)
    got = c.convert(og_marl(at(tmp_path, "toy/a"), truth, obs)).recording
    assert got.obs.dtype == np.float32
    np.testing.assert_array_equal(got.obs, obs)


HOSTILE = {
    "flags of 2": {"terminals": np.full((STEPS, AGENTS), 2, np.int32)},
    "flags of two agents": {"terminals": np.zeros((STEPS, 2), bool)},
    "flags not finite": {"terminals": np.full((STEPS, AGENTS), np.nan, np.float32)},
    "mask of halves": {"infos.legals": np.full((STEPS, AGENTS, 5), 0.5, np.float32)},
    "mask of two agents": {"infos.legals": np.ones((STEPS, 2, 5), bool)},
    "mask without agents": {"infos.legals": np.ones((STEPS, 5), bool)},
    "no features": {"observations": np.zeros((STEPS, AGENTS), np.float32)},
    "pictures": {"observations": np.zeros((STEPS, AGENTS, 4, 4), np.float32)},
    "complex rewards": {"rewards": np.ones((STEPS, AGENTS), np.complex64)},
    "rewards of two agents": {"rewards": np.ones((STEPS, 2), np.float32)},
    "one action for all": {"actions": np.zeros((STEPS, 1), np.int32)},
    "actions in half": {"actions": np.full((STEPS, AGENTS), 0.5, np.float32)},
    "actions of none": {"actions": np.full((STEPS, AGENTS), 99, np.int32)},
    "without rewards": {"rewards": None},
    "without flags": {"terminals": None},
    "without observations": {"observations": None},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_arrays_that_are_not_what_they_should_be(tmp_path, truth, observed, what):
    assert not equals_or_refuses(og_marl(at(tmp_path), truth, observed, **HOSTILE[what]), truth)


@pytest.mark.parametrize("old, new", [
    ("(1, 240, 3, 54)", "(1, 240, 3, 55)"), ("(1, 240, 3, 54)", "(2, 240, 3, 54)"), ("(1, 240, 3, 54)", "1/0"),
    ("(1, 240, 3, 54)", "(1,)"), ('"float32"', '"int8"'), ("(1, 240, 3)", "[["), ('"version"', '"other"'),
    ("{", "[" * 50_000),
])  # fmt: skip
def test_metadata_that_lie(tmp_path, truth, observed, old, new):
    path = og_marl(at(tmp_path), truth, observed)
    file = path / "metadata.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert not equals_or_refuses(path, truth)


@pytest.mark.parametrize("steps", [-1, 0, 10_000, 2**31 - 1])
def test_a_step_count_that_lies(tmp_path, truth, observed, steps):
    path = og_marl(at(tmp_path), truth, observed)
    index = v.open_leaf(path, "vault_index", open=True)
    index.write(np.array([steps], index.dtype.numpy_dtype)).result()
    assert not equals_or_refuses(path, truth)


@pytest.mark.parametrize(
    "count", [lambda n: n * 4, lambda n: n > 0, lambda n: n // 2], ids=["frames", "flag", "pairs"]
)
def test_a_step_count_that_counts_something_else(tmp_path, truth, observed, count):
    """No boundary comes of it, whatever the time limit."""
    path = oryx(
        at(tmp_path, "toy/a"),
        truth,
        observed,
        **{"obs.step_count": each(count(truth.step_count.astype(int)))},
    )
    with pytest.raises(UserError, match="obs.step_count rises by 1 at .*% of the steps within episodes"):
        c.convert(path, c.Options(horizon=200))


def test_rewards_that_float32_cannot_hold(tmp_path, truth, observed):
    whole = each(np.full(STEPS, 2**24 + 1, np.int32))
    with pytest.raises(UserError, match="rewards hold 16777217, which float32 cannot"):
        c.convert(og_marl(at(tmp_path, "toy/a"), truth, observed, rewards=whole), c.Options(horizon=25))


@pytest.mark.parametrize("horizon, said", [(25, True), (12, False)])
def test_a_time_limit_that_nobody_named(tmp_path, observed, truth, horizon, said):
    """Episodes of 12 steps, of which some end one step earlier: the flags of this layout do not tell why."""
    step = np.arange(STEPS) % 12
    last = np.isin(np.arange(STEPS), [10, 46]) | (step == 11)
    first = np.append(True, last[:-1])
    count = np.concatenate([np.arange(n) for n in lengths(first)])
    cut = truth._replace(first=first, terminal=last, step_count=count.astype(np.int16))
    remarks = c.convert(oryx(at(tmp_path, "toy/a"), cut, observed), c.Options(horizon=horizon)).remarks
    assert any("17 of 22 episodes end at step 12 and none is longer" in line for line in remarks) == said


def test_episodes_longer_than_a_vault_holds(tmp_path):
    steps = 33_000
    last = np.zeros((1, steps, 1), bool)
    last[0, -1] = True
    leaves = {
        "observations": np.ones((1, steps, 1, 1), np.float32), "actions": np.zeros((1, steps, 1), np.int32),
        "rewards": np.ones((1, steps, 1), np.float32), "terminals": last, "truncations": np.zeros_like(last),
    }  # fmt: skip
    from test_convert import write

    with pytest.raises(UserError, match="at most 32,767: mark a truncation"):
        c.convert(write(at(tmp_path, "grid/day"), leaves), c.Options(horizon=50_000))


# ---------------------------------------------------------------------------------------------- the command


def test_a_damaged_vault_among_three(tmp_path, capsys, truth, observed):
    for scenario in ("3m", "5m", "8m"):
        og_marl(at(tmp_path, f"smac/{scenario}"), truth, observed)
    damaged = at(tmp_path, "smac/5m") / "manifest.ocdbt"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"nonsense")
    command = ["convert", str(tmp_path / "in"), "--root", str(tmp_path / "root")]
    assert cli.main(command) == 2
    told = capsys.readouterr()
    assert "5m.vlt" in told.err and "1 of 3 vaults not converted" in told.err and "3m.vlt" not in told.err
    assert v.verify(tmp_path / "root") == ["smac/3m/Good", "smac/8m/Good"]
    damaged.write_bytes(whole)
    (tmp_path / "root/manifest.json").unlink()  # As after a kill: the rerun lists all.
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("is there already") == 2
    assert v.verify(tmp_path / "root") == ["smac/3m/Good", "smac/5m/Good", "smac/8m/Good"]


@pytest.mark.parametrize(
    "name", ["smac/maps/3m", "../x", "/tmp/x", "smac/..", "smac/3m ", "smac/a:b", "", "a,b/c"]
)
def test_nothing_is_written_under_names_that_are_not_legal(tmp_path, capsys, truth, observed, name):
    og_marl(at(tmp_path, "smac/3m"), truth, observed)
    before = sorted(tmp_path.rglob("*"))
    command = ["convert", str(tmp_path / "in"), "--root", str(tmp_path / "root")]
    assert cli.main([*command, "--task", name]) == 2
    assert cli.main([*command, "--quality", name]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("name", ["2024 run", "a,b", "a=b", "x" * 81])
def test_a_folder_whose_name_is_not_legal_is_told_the_option_before_it_is_read(
    tmp_path, capsys, truth, observed, name
):
    place = at(tmp_path, "smac/3m", name)
    og_marl(place, truth, observed)
    (place / "manifest.ocdbt").write_bytes(b"damaged")
    command = ["convert", str(tmp_path / "in"), "--root", str(tmp_path / "root")]
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert "not a legal name" in told and "with --quality NAME" in told and told.count("\n") == 1


def test_the_option_replaces_a_name_that_is_not_legal(tmp_path, truth, observed):
    place = at(tmp_path, "smac/3m", "2024 run")
    og_marl(place, truth, observed)
    with pytest.raises(UserError, match="--quality NAME"):
        c.convert(place)
    assert c.convert(place, c.Options(quality="new")).quality == "new"
    assert cli.main(["convert", str(place), "--root", str(tmp_path / "root"), "--quality", "new"]) == 0
    assert v.verify(tmp_path / "root") == ["smac/3m/new"]


def test_a_subset_checks_its_name_before_it_looks_for_the_vault(tmp_path, capsys):
    command = ["subset", "smac/nowhere", "a b", "--steps", "100", "--root", str(tmp_path)]
    assert cli.main(command) == 2 and "quality 'a b': not a legal name" in capsys.readouterr().err


def test_links_do_not_lead_out_of_the_root(tmp_path, capsys, truth, observed):
    og_marl(at(tmp_path, "smac/3m"), truth, observed)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/smac").symlink_to(tmp_path / "elsewhere")
    assert cli.main(["convert", str(tmp_path / "in"), "--root", str(tmp_path / "root")]) == 2
    assert "by a link" in capsys.readouterr().err and not list((tmp_path / "elsewhere").iterdir())


def test_two_vaults_of_one_name(tmp_path, capsys, truth, observed):
    for above in ("a", "b"):
        og_marl(tmp_path / f"in/{above}/3m.vlt/Good", truth, observed)
    command = [
        "convert",
        str(tmp_path / "in"),
        "--root",
        str(tmp_path / "root"),
        "--task",
        "smac",
        "--replace",
    ]
    assert cli.main(command) == 2 and "would become" in capsys.readouterr().err


def test_links_to_vaults_are_followed(tmp_path, truth, observed):
    og_marl(tmp_path / "data/3m.vlt/Good", truth, observed)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/smac").symlink_to(tmp_path / "data")
    (tmp_path / "data/back").symlink_to(tmp_path / "in")
    (tmp_path / "data/3m.vlt/lost").symlink_to(tmp_path / "nowhere")
    with c.found_vaults(tmp_path / "in") as found:
        assert [str(p.relative_to(tmp_path / "in")) for p in found] == [
            "smac/3m.vlt/Good",
            "smac/3m.vlt/lost",
        ]


def test_a_full_disk(tmp_path, capsys, truth, observed):
    og_marl(at(tmp_path, "smac/3m"), truth, observed)
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limit[1]))
    try:
        code = cli.main(["convert", str(tmp_path / "in"), "--root", str(tmp_path / "root")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    told = capsys.readouterr().err
    assert code == 2 and "cannot be written" in told and told.count("\n") == 1
    assert not [p for p in (tmp_path / "root").rglob("*") if p.name.startswith((".Good", "smac"))]
