"""How recorded play chooses its actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recordings import make_recording

from mtmarl.algos.base import no_carry, random_act
from mtmarl.data.recording import cut, load_points, make_recorder, save_point
from mtmarl.errors import UserError
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


NPY = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\n"
    + bytes(8)
)
SPOIL = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-50]),
    "text": lambda file: file.write_text("x"),
    "bit": lambda file: file.write_bytes(file.read_bytes()[:900] + b"?" + file.read_bytes()[901:]),
    "other arrays": lambda file: np.savez(file, obs=np.zeros(3)),
    "one array": lambda file: file.write_bytes(NPY),
    "objects": lambda file: np.savez(file, obs=np.array([{}], object)),
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_a_point_of_a_collection_that_is_damaged_is_named(tmp_path, spoil):
    made = {update: make_recording(update, 50) for update in (10, 20)}
    for update, part in made.items():
        save_point(tmp_path, update, part)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000010.npz", "00000020.npz"]
    for part, back in zip(made.values(), load_points(tmp_path, made), strict=True):
        jax.tree.map(np.testing.assert_array_equal, part, back)
    spoil(tmp_path / "00000020.npz")
    with pytest.raises(UserError, match="00000020.npz: missing or damaged") as told:
        load_points(tmp_path, made)
    assert "\n" not in str(told.value)
    load_points(tmp_path, [10])
