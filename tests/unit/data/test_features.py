"""Observations are stored as int8 only where nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.data import features, vault
from mtmarl.data.recording import cut, make_recorder
from mtmarl.data.replay import kept_scale, replay_source
from mtmarl.envs.api import InUnits
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.types import TaskSpec, TimeStep

SCALE = np.asarray([1 / 16, 1.0], np.float32)


def test_integers_times_a_scale_are_int8():
    obs = np.asarray([[3, -1], [127, 0]], np.float32) * SCALE
    stored = features.encode(obs, SCALE)
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored * SCALE, obs)


@pytest.mark.parametrize("wrong", [0.37, 200.0, -200.0, 1e9, 1 / 3, np.nan, np.inf])
def test_what_does_not_fit_is_stored_as_it_is(wrong):
    obs = np.asarray([[0.25, 1.0], [0.5, wrong]], np.float32)
    stored = features.encode(obs, SCALE)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, obs)


def test_parts_of_a_vault_have_one_form():
    whole = features.encode(np.asarray([[0.25, 1.0]], np.float32), SCALE)
    loose = features.encode(np.asarray([[0.25, 0.37]], np.float32), SCALE)
    parts, scale = features.join([whole, loose], SCALE)
    np.testing.assert_array_equal(
        np.concatenate(parts) * scale, np.asarray([[0.25, 1], [0.25, 0.37]], np.float32)
    )
    parts, scale = features.join([whole, whole], SCALE)
    assert parts[0].dtype == np.int8 and (scale == SCALE).all()


class Drift:
    """A family of its own, whose second feature is no integer from the third step on."""

    spec = TaskSpec("drift/2a", "drift", agents=2, obs=2, actions=2, horizon=6)
    obs_scale = np.ones(2, np.float32)

    def reset(self, key):
        return jnp.int32(0), self._step(jnp.int32(0))

    def step(self, state, action, key):
        return state + 1, self._step(state + 1)

    def _step(self, t):
        row = jnp.stack([t, jnp.where(t < 3, 0.0, t + 0.37)]).astype(jnp.float32)
        no, mask = jnp.zeros((), bool), jnp.ones((2, 2), bool)
        return TimeStep(jnp.stack([row, row]), mask, jnp.float32(0), no, t >= 6)


def still(params, carry, obs, key, sample_probability):
    return carry, jnp.zeros(obs.obs.shape[:2], jnp.int32), {}


EXPECTED = np.asarray([[t, 0 if t < 3 else t + 0.37] for t in range(6)], np.float32)


def test_a_recording_holds_what_was_seen():
    seen = make_recorder(Drift(), still, lambda batch, agents: (), 1)((), jax.random.key(0))
    np.testing.assert_array_equal(cut(seen, 0, Drift.obs_scale).obs[:, 0], EXPECTED)


def test_replay_holds_what_was_seen():
    env = Drift()
    source = replay_source(env, still, lambda batch, agents: (), 1, 6, 1, 12, 4, 6, lambda update: 1.0)
    state = source.init(jax.random.key(0))
    _, batch = jax.jit(lambda s, k: source.next(s, (), None, (), k))(state, jax.random.key(1))
    np.testing.assert_array_equal(batch.obs[0, :, 0], EXPECTED)
    env = make_env("lbf/5x5-2p-1f")
    wide = Layout.of([env.spec, make_env("lbf/6x6-3p-1f").spec], "fixed", 3).wrap(env)
    assert kept_scale([env])[1] == kept_scale([InUnits(wide, 2.0)])[1] == jnp.int8


class Shifted:
    """A built-in task whose observations a user's wrapper changes."""

    def __init__(self, raw):
        self.raw, self.spec, self.obs_scale = raw, raw.spec, raw.obs_scale

    def reset(self, key):
        state, step = self.raw.reset(key)
        return state, step._replace(obs=step.obs + 0.37)

    def step(self, state, action, key):
        state, step = self.raw.step(state, action, key)
        return state, step._replace(obs=step.obs + 0.37)


def test_replay_keeps_what_a_wrapper_makes_of_a_built_in_task():
    scale, dtype = kept_scale([InUnits(Shifted(make_env("lbf/5x5-2p-1f")), 2.0)])
    assert dtype == jnp.float32 and (scale == 1).all()


def test_a_vault_holds_no_more_actions_than_its_type():
    class Wide(Drift):
        spec = TaskSpec("drift/wide", "drift", agents=2, obs=2, actions=200, horizon=6)

    with pytest.raises(UserError, match="200 actions; a vault can hold at most 127"):
        make_recorder(Wide(), still, lambda batch, agents: (), 1)


def test_one_collection_of_a_task_at_a_time(tmp_path):
    with vault.sole_collector(tmp_path, "lbf/a"):
        with (
            pytest.raises(UserError, match="another process collects lbf/a"),
            vault.sole_collector(tmp_path, "lbf/a"),
        ):
            pass
        with vault.sole_collector(tmp_path, "lbf/b"):
            pass
    with vault.sole_collector(tmp_path, "lbf/a"):
        pass  # free again


def test_new_vaults_do_not_go_into_the_tracked_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTMARL_VAULTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert vault.own_root() == tmp_path / "data/mtmarl/vaults"
    assert vault.own_root() in vault.default_roots() and vault.default_roots()[0] == tmp_path / "vault_data"
    monkeypatch.setenv("MTMARL_VAULTS", f"{tmp_path / 'mine'}:{tmp_path / 'other'}")
    assert vault.own_root() == tmp_path / "mine" == vault.default_roots()[0]
