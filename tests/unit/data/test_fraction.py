"""`data.fraction`: fewer episodes of the same mix."""

import numpy as np
import pytest
from recordings import make_vault

from mtmarl import config
from mtmarl.data.sampling import subsample
from mtmarl.data.vault import checks
from mtmarl.errors import UserError


def parts(recording):
    """Episodes as tuples of columns."""
    starts = np.flatnonzero(recording.first)[1:]
    return list(zip(*(np.split(column, starts) for column in recording), strict=True))


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25, 0.3, 1e-9])
def test_whole_episodes_spread_evenly(fraction):
    whole = make_vault(3, steps=900)
    subsampled = subsample(whole, fraction)
    episodes, kept = parts(whole.recording), parts(subsampled.recording)
    assert len(kept) == max(1, round(fraction * len(episodes)))
    at = [next(i for i, e in enumerate(episodes) if _same(e, k)) for k in kept]
    gaps = np.diff([*at, len(episodes)])
    assert at[0] == 0 and gaps.max() - gaps.min() <= 1
    if fraction == 1.0:
        assert all(map(_same, episodes, kept))
    checks.check_recording(subsampled.recording, "subsampled")


def test_less_is_part_of_more():
    whole = make_vault(4, steps=2000)
    count = len(parts(whole.recording))
    half, quarter = (parts(subsample(whole, 4 * (count // 4) / count / n).recording) for n in (2, 4))
    assert len(half) == 2 * len(quarter)
    assert all(_same(a, b) for a, b in zip(half[::2], quarter, strict=True))


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fraction", ["0", "1.5", "-1"])
def test_the_share_is_checked(fraction):
    with pytest.raises(UserError, match="data.fraction must lie above 0"):
        config.compose(["+algo=mt_oryx", "+tasks=micro", f"data.fraction={fraction}"], "train")
