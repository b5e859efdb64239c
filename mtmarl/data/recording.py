"""Complete episodes of a policy, as they go into a vault."""

from collections.abc import Callable, Iterable
from pathlib import Path
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.data.features import encode
from mtmarl.data.vault import Recording
from mtmarl.errors import UserError
from mtmarl.foreign import line
from mtmarl.training.rollout import Trajectory, rollout, start
from mtmarl.types import Act, Env, Params


def make_recorder(env: Env, act: Act, init_carry, episodes: int, sample_probability: float = 1.0) -> Callable:
    """Returns (params, key) -> the first episodes of `episodes` environments.

    Raises UserError if the sizes exceed the limits of a vault.
    """
    spec = env.spec
    for what, size, most in (
        ("actions", spec.actions, 127),
        ("steps in an episode", spec.horizon, 2**15 - 1),
    ):
        if size > most:
            raise UserError(f"{spec.name}: {size:,} {what}; a vault can hold at most {most:,}")

    @jax.jit
    def run(params: Params, key: jax.Array) -> Trajectory:
        key_start, key_steps = jax.random.split(key)
        state = start(env, init_carry, episodes, key_start)
        _, seen = rollout(
            env, act, init_carry, params, state, key_steps, env.spec.horizon, sample_probability
        )
        return seen._replace(action=seen.action.astype(jnp.int8), extras=())

    return run


def cut(seen: Trajectory, policy_step: int, obs_scale: np.ndarray) -> Recording:
    """Concatenates the first episodes of [T, B, …] along one time axis and encodes observations (`features`)."""
    seen = jax.tree.map(np.asarray, seen)
    lengths = (seen.terminated | seen.truncated).argmax(0) + 1
    episodes = [(slice(0, n), b) for b, n in enumerate(lengths)]
    join = lambda x: np.concatenate([x[e] for e in episodes])
    step_count = np.concatenate([np.arange(n, dtype=np.int16) for n in lengths])
    return Recording(
        obs=encode(join(seen.obs), obs_scale),
        mask=join(seen.action_mask),
        action=join(seen.action),
        reward=join(seen.reward).astype(np.float32),
        first=step_count == 0,
        terminal=join(seen.terminated),
        truncated=join(seen.truncated),
        step_count=step_count,
        policy_step=np.full(step_count.shape, policy_step, np.int32),
    )


def save_point(folder: Path, update: int, recording: Recording) -> None:
    """Saves a recording made after an update, atomically."""
    np.savez(folder / "writing.npz", **recording._asdict())
    (folder / "writing.npz").rename(_point(folder, update))


def load_points(folder: Path, updates: Iterable[int]) -> list[Recording]:
    """Loads the recordings made after these updates. Raises UserError if one is damaged or missing."""
    return [_load(_point(folder, update)) for update in updates]


def _point(folder: Path, update: int) -> Path:
    return folder / f"{update:08d}.npz"


def _load(file: Path) -> Recording:
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            return Recording(**arrays)
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        NotImplementedError,
        BadZipFile,
    ) as error:
        raise UserError(
            f"{file}: missing or damaged ({line(error)}), and training is past it; restore it, or give another run_dir"
        ) from None
