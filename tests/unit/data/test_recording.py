"""How recorded play chooses its actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos.base import no_carry, random_act
from mtmarl.data.recording import cut, make_recorder
from tests.counting import Counting


def first_or_any(params, carry, obs, key, sample_probability):
    """The first legal action, or with probability `explore` any."""
    _, drawn, _ = random_act(params, carry, obs, key, sample_probability)
    return (
        carry,
        jnp.where(jax.random.bernoulli(key, sample_probability), drawn, obs.action_mask.argmax(-1)),
        {},
    )


@pytest.mark.parametrize("sample_probability", [0.0, 1.0])
def test_greedy_play_is_recorded_as_greedy(sample_probability):
    env = Counting(0, 2, 5)
    seen = make_recorder(env, first_or_any, no_carry, 8, sample_probability)((), jax.random.key(0))
    part = cut(seen, 3, env.obs_scale)
    greedy = part.action == part.mask.argmax(-1)
    assert greedy.all() == (sample_probability == 0.0)
    assert (part.policy_step == 3).all() and part.first.sum() == 8
    assert np.take_along_axis(part.mask, part.action[..., None].astype(int), -1).all(), "legal"
