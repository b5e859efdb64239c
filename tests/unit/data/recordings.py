"""Made-up recordings with everything that real ones have: terminations, time-outs, cuts, late starts."""

import numpy as np

from mtmarl.data.vault import Recording, Vault, write_vault

HORIZON = 12
SCALE = [0.5, 1.0, 0.25, 1.0, 2.0]


def make_recording(seed=0, steps=200, agents=3, features=5, actions=4) -> Recording:
    rng = np.random.default_rng(seed)
    first, terminal, truncated = (np.zeros(steps, bool) for _ in range(3))
    count = np.zeros(steps, np.int16)
    t = 0
    while t < steps:
        # a recording may begin inside an episode
        begin = 0 if rng.random() < 0.8 else int(rng.integers(1, HORIZON))
        length = min(int(rng.integers(1, HORIZON - begin + 1)), steps - t)
        end = t + length - 1
        first[t], count[t : end + 1] = True, begin + np.arange(length)
        if rng.random() < 0.5 and count[end] + 1 < HORIZON:
            terminal[end] = True
        else:
            truncated[end] = True
        t = end + 1
    mask = rng.random((steps, agents, actions)) < 0.6
    mask[..., 0] = True
    return Recording(
        obs=rng.integers(-128, 128, (steps, agents, features)).astype(np.int8),
        mask=mask,
        action=np.argmax(mask * rng.random(mask.shape), -1).astype(np.int8),
        reward=rng.normal(size=steps).astype(np.float32),
        first=first,
        terminal=terminal,
        truncated=truncated,
        step_count=count,
        policy_step=np.sort(rng.integers(0, 100_000, steps)).astype(np.int32),
    )


def metadata(task="lbf/toy", features=5, **more):
    return {"task": task, "obs_scale": SCALE[:features], "horizon": HORIZON, **more}


def make_vault(seed=0, task="lbf/toy", **sizes) -> Vault:
    """In memory: what sampling needs."""
    recording = make_recording(seed, **sizes)
    return Vault(recording, metadata(task, recording.obs.shape[2]))


def save(root, seed=0, task="lbf/toy", quality="replay", **sizes):
    family, scenario = task.split("/")
    recording = make_recording(seed, **sizes)
    path = write_vault(
        root / family / f"{scenario}.vlt" / quality, recording, metadata(task, recording.obs.shape[2])
    )
    return path, recording
