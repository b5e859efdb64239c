"""Episodes of a recording: where they lie, and their returns."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mtmarl.data.vault.schema import Recording
from mtmarl.errors import UserError


class Episodes(NamedTuple):
    """First and last step (inclusive) of E episodes, which of them are complete, and the sums of their rewards."""

    start: np.ndarray  # (E,)
    end: np.ndarray  # (E,)
    complete: np.ndarray  # (E,) bool
    total: np.ndarray  # (E,) float64

    @property
    def length(self) -> np.ndarray:
        return self.end - self.start + 1


def episodes(recording: Recording, horizon: int) -> Episodes:
    """Episodes of a recording. Complete: recorded from the reset to termination or to `horizon` env steps."""
    start, end = _bounds(recording)
    count = recording.step_count.astype(np.int64)
    complete = (count[start] == 0) & (recording.terminal[end] | (count[end] + 1 >= horizon))
    return Episodes(start, end, complete, np.add.reduceat(recording.reward.astype(np.float64), start))


def _bounds(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    start = np.flatnonzero(recording.first)
    return start, np.append(start[1:], len(recording.first)) - 1


def returns_to_go_range(recordings: Iterable[Recording], gamma: float) -> tuple[float, float]:
    """Smallest and largest discounted return-to-go of all steps; a cut episode counts up to its cut.

    It bounds the support of a value distribution.
    """
    low, high = np.inf, -np.inf
    for recording in recordings:
        start, end = _bounds(recording)
        reward, to_go = recording.reward.astype(np.float64), np.zeros(len(start))
        while len(start):  # all episodes at once, backwards from their ends
            to_go = reward[end] + gamma * to_go
            low, high = min(low, to_go.min()), max(high, to_go.max())
            more = end > start
            start, end, to_go = start[more], end[more] - 1, to_go[more]
    if low > high:
        raise UserError(
            "returns_to_go_range: no recorded steps; pass at least one recording that is not empty"
        )
    return float(low), float(high)
