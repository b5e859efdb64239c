"""Tasks of several families and numbered agents in one layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError

LBF, CONNECTOR = "lbf/5x5-2p-1f-t8", "connector/con-3x3x2a"


def layout_of(*names, **options):
    return Layout.of([make_env(n).spec for n in names], **options)


def test_one_family_without_numbers_is_left_as_it_is():
    env = make_env(LBF)
    assert layout_of(LBF, "lbf/6x6-3p-2f").wrap(env) is env


def test_families_are_padded_and_marked():
    layout = layout_of(CONNECTOR, LBF)
    assert (layout.features, layout.known, layout.obs, layout.actions) == (54, 56, 56, 6)
    for name, mark in ((CONNECTOR, [1, 0]), (LBF, [0, 1])):
        raw, env = make_env(name), layout.wrap(make_env(name))
        np.testing.assert_array_equal(layout.constant(raw.spec.family), mark)
        state, step = env.reset(jax.random.key(0))
        own_state, own = raw.reset(jax.random.key(0))
        for _ in range(3):
            agents, width = own.obs.shape
            np.testing.assert_array_equal(step.obs[:, :width], own.obs)
            assert not step.obs[:, width:54].any()
            np.testing.assert_array_equal(step.obs[:, 54:], [mark] * agents)
            np.testing.assert_array_equal(step.mask[:, : own.mask.shape[1]], own.mask)
            assert not step.mask[:, own.mask.shape[1] :].any()
            assert (step.reward, step.terminated, step.truncated) == (
                own.reward,
                own.terminated,
                own.truncated,
            )
            action = own.mask.argmax(-1)
            state, step = env.step(state, action, jax.random.key(1))
            own_state, own = raw.step(own_state, action, jax.random.key(1))
        assert env.spec.obs == env.obs_scale.size == 56
        np.testing.assert_array_equal(env.obs_scale[: raw.obs_scale.size], raw.obs_scale)


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_numbers_last_for_an_episode(kind):
    env = layout_of(LBF, agent_ids=kind, ids=5).wrap(make_env(LBF))
    seen = []
    for seed in range(8):
        state, step = env.reset(jax.random.key(seed))
        numbers = np.asarray(step.obs[:, -5:])
        np.testing.assert_array_equal(numbers.sum(1), 1)
        assert numbers.argmax(1)[0] != numbers.argmax(1)[1]
        _, after = env.step(state, jnp.zeros(2, jnp.int32), jax.random.key(0))
        np.testing.assert_array_equal(after.obs[:, -5:], numbers)
        seen.append(tuple(numbers.argmax(1)))
    assert (len(set(seen)) == 1) == (kind == "fixed")


def test_start_states_do_not_depend_on_the_layout():
    """All methods are scored from the same ones."""
    key = jax.random.key(3)
    _, own = make_env(LBF).reset(key)
    _, step = layout_of(LBF, CONNECTOR, agent_ids="random", ids=4).wrap(make_env(LBF)).reset(key)
    np.testing.assert_array_equal(step.obs[:, : own.obs.shape[1]], own.obs)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="connector/con-3x3x2a: not of a family that the policy knows"):
        layout_of(LBF).wrap(make_env(CONNECTOR))
    with pytest.raises(UserError, match="3 agents, and the policy has numbers for 2"):
        layout_of(LBF, agent_ids="fixed", ids=2).wrap(make_env("lbf/6x6-3p-1f"))
