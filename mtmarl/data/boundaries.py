"""Infers where the episodes of an imported recording begin and end.

A flag at step t may mark the last step of an episode or the first one. All agents may be flagged together, or each at
its own end. Each interpretation is checked against the step counts, the time limit and the largest possible return.
Contradicted interpretations are rejected. If the others differ and no evidence decides, a UserError names the option
that does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from mtmarl.errors import UserError

Meaning = Literal["start", "end"]
Team = Literal["all", "any"]
_SAYS = {"end": "the last step of an episode", "start": "the first step of an episode"}
# At least 90% of at least 16 flags must agree; the probability of this by chance is 1 / 2,000.
_FEWEST, _SHARE = 16, 0.9


@dataclass(frozen=True)
class Recorded:
    """The recorded evidence: R rows of T steps each, N agents.

    ended: (R, T, N) flags. cut: (R, T, N) flags of time limits and cuts; None if `ended` includes them.
    count: (R, T) previous env steps in the episode. reward: (R, T), NaN if not finite. obs: (R, T, N, O).
    usual: meaning of the flags in this file format, None if both are in use.
    """

    ended: np.ndarray
    cut: np.ndarray | None
    count: np.ndarray | None
    reward: np.ndarray
    obs: np.ndarray
    usual: Meaning | None


@dataclass(frozen=True)
class Known:
    """What the user or the task specifies.

    horizon: time limit in env steps. every: episode length of a recording without flags. rollout: length of the
    rollouts that a row concatenates. most: largest possible return. flags, team: meaning of the flags.
    """

    horizon: int | None = None
    every: int | None = None
    rollout: int | None = None
    most: float | None = None
    flags: Meaning | None = None
    team: Team | None = None


class Boundaries(NamedTuple):
    """Per step, with all rows concatenated: (S,). count: previous env steps in the episode."""

    first: np.ndarray
    terminal: np.ndarray
    truncated: np.ndarray
    count: np.ndarray


@dataclass
class _Reading:
    meaning: Meaning
    team: Team
    found: Boundaries
    against: list[str] = field(default_factory=list)
    doubt: str = ""
    remarks: list[str] = field(default_factory=list)


def decide(seen: Recorded, known: Known, remarks: list[str]) -> Boundaries:
    """Returns the boundaries that agree with the evidence. Adds assumptions to `remarks`. Raises UserError."""
    flags = seen.ended if seen.cut is None else seen.ended | seen.cut
    if not flags.any() and seen.count is None and known.every is None:
        raise UserError("no step is marked as the end of an episode; give --horizon to cut it into episodes")
    if seen.cut is None and known.horizon is None:
        raise UserError("its flags do not tell an end from a time limit; give --horizon, in env steps")
    rows = flags.shape[0]
    if (
        seen.cut is None and rows > 1 and seen.count is None and known.rollout is None
        and not flags[:, 0].any(1).all()
    ):  # fmt: skip
        raise UserError(
            f"{rows} rows may hold rollouts of different moments one after the other; give their length, "
            "--rollout-length (Mava's system.rollout_length)"
        )
    differ = bool((flags != flags[..., :1]).any())
    meanings: tuple[Meaning, ...] = ("end", "start") if flags.any() else ("end",)
    meanings = (known.flags,) if known.flags else meanings
    teams: tuple[Team, ...] = (known.team,) if known.team else ("all", "any") if differ else ("all",)
    readings = [_read(seen, known, meaning, team) for meaning, team in product(meanings, teams)]
    chosen = _choose(readings, seen, known)
    if chosen.doubt and known.team is None and seen.count is None:
        raise UserError(
            f"{chosen.doubt}; say whether an episode ends when all agents have (--team-flags all) or at the first flag "
            "(--team-flags any)"
        )
    if differ:
        when = "all agents have ended" if chosen.team == "all" else "one agent has ended"
        remarks.append(
            f"at {int((flags.any(2) & ~flags.all(2)).sum())} steps only some agents are flagged; an episode ends when "
            f"{when}"
        )
    if flags.any() and seen.usual != chosen.meaning:
        remarks.append(f"a flag marks {_SAYS[chosen.meaning]}")
    remarks += [*chosen.remarks, *_unsaid_limit(seen, known, chosen.found)]
    return chosen.found


def _unsaid_limit(seen: Recorded, known: Known, found: Boundaries) -> Iterator[str]:
    """Yields a remark if the flags do not tell ends from time limits and many episodes have the same maximal length."""
    if seen.cut is not None or known.horizon is None:
        return
    longest, length = int(found.count.max()) + 1, found.count[found.terminal] + 1
    alike = int((length == longest).sum())
    if 1 < longest < known.horizon and alike >= max(4, 0.25 * found.first.sum()):
        yield (
            f"{alike} of {int(found.first.sum())} episodes end at step {longest:,} and none is longer: taken as ends "
            f"by their state; if that was the time limit, give --horizon {longest}"
        )


def _choose(readings: list[_Reading], seen: Recorded, known: Known) -> _Reading:
    fits = [r for r in readings if not r.against]
    if not fits:
        reasons = "; ".join(
            f"flags as {_SAYS[r.meaning]}: {', '.join(r.against)}"
            for r in readings
            if r.team == readings[0].team
        )
        raise UserError(
            f"the recording contradicts what is said of it ({reasons}); correct it, or give --task, --horizon, "
            "--flags, --team-flags, --team-reward or --rollout-length"
        )
    # Usually each agent ends at its own step.
    fits = [r for r in fits if r.team == "all"] or fits
    if known.flags is not None or seen.count is not None or len(readings) == 1:
        hint, doubtful = None, False
    else:
        flagged = np.asarray((seen.ended if seen.cut is None else seen.ended | seen.cut).any(2))
        hint = _by_change(seen.obs, flagged)
        doubtful = hint is None and seen.usual == "end" and _by_rows_start(flagged)
    for meaning in (hint, seen.usual):
        if not _alike(fits):
            fits = [r for r in fits if r.meaning == meaning] or fits
    chosen = fits[0]
    if not _alike(fits):
        why = "nothing recorded tells which"
    elif hint is not None and hint != chosen.meaning:
        why = f"returns and lengths allow the one, observations change as if it were {_SAYS[hint]}"
    elif hint is not None and seen.usual not in (None, hint):
        why = f"this layout has the one, observations change as if it were {_SAYS[hint]}"
    elif doubtful and chosen.meaning == "end":
        why = "each row begins with a flag and ends without one"
    else:
        return chosen
    raise UserError(
        f"a flag may mark {_SAYS['end']} or {_SAYS['start']}, {why}; give --flags end or --flags start"
    )


def _alike(readings: list[_Reading]) -> bool:
    same = readings[0].found
    return all(all(np.array_equal(a, b) for a, b in zip(same, r.found, strict=True)) for r in readings[1:])


# ------------------------------------------------------------------------------------------------ readings


def _read(seen: Recorded, known: Known, meaning: Meaning, team: Team) -> _Reading:
    """Returns the boundaries of one interpretation of the flags, and the evidence against it."""
    flags = seen.ended if seen.cut is None else seen.ended | seen.cut
    rows, steps = flags.shape[:2]
    flagged, ended, doubt = _of_team(flags, seen.ended, team)
    edges = _edges(rows, steps, known.rollout)
    remarks, against = [], []
    starts = np.zeros_like(flagged)  # Flags that mark the first step of an episode.
    if meaning == "start":
        starts = flagged
        flagged, ended = _earlier(flagged) & ~edges, _earlier(ended) & ~edges
    cut = edges.copy()
    if not flags.any() and known.every and seen.count is None:
        cut |= _edges(rows, steps, known.every)
        remarks.append(f"no step is marked as the end of an episode: cut every {known.every} steps")
    count = seen.count
    if count is not None:
        breaks = ~edges & _earlier(np.diff(count, axis=1, prepend=count[:, :1] - 1) != 1)
        resets = breaks & (_earlier(count) == 0)
        at_limit = resets & ~flagged & (count + 1 == known.horizon)
        jumps = breaks & ~resets & ~flagged
        cut |= breaks
        wrong = (flagged & ~edges & ~resets).sum() + (starts[:, 0] & (count[:, 0] != 0)).sum()
        unflagged = (resets & ~flagged & ~at_limit).sum()
        if wrong:
            against.append(f"{int(wrong)} flags stand where the step counts go on")
        if unflagged:
            against.append(f"{int(unflagged)} times the step counts begin anew without a flag")
        if jumps.any():
            remarks.append(f"{int(jumps.sum())} times the recording jumps within an episode: cut there")
        if at_limit.any():
            remarks.append(f"{int(at_limit.sum())} time limits are not flagged: known by the step counts")
    end = (flagged | cut).reshape(-1)
    first = np.append(True, end[:-1])
    late = np.zeros(len(first), bool)
    if count is None:
        at = counted(first)
        late = _late(seen, known, meaning, first, edges.reshape(-1), starts.reshape(-1))
        # Counting from 1 excludes partially recorded episodes from the complete ones.
        at = at + late
        if late.any():
            remarks.append(
                f"{int((late & first).sum())} rollouts may begin inside an episode: these are not whole episodes, and "
                "what ended them is not known"
            )
    else:
        at = count.reshape(-1)
    terminal = ended.reshape(-1)
    if seen.cut is None and known.horizon:
        terminal = flagged.reshape(-1) & (at + 1 < known.horizon) & ~late
    found = Boundaries(first, terminal, end & ~terminal, at)
    against += _impossible(found, seen.reward.reshape(-1), known)
    return _Reading(meaning, team, found, against, doubt, remarks)


def _edges(rows: int, steps: int, every: int | None) -> np.ndarray:
    """Returns (R, T): true at the last step of each row and after every `every` steps."""
    at = np.arange(1, steps + 1)
    last = (at == steps) if every is None else (at == steps) | (at % every == 0)
    return np.tile(last, (rows, 1))


def _earlier(x: np.ndarray) -> np.ndarray:
    """Returns (R, T): the value of the next step of the row; zero at the last step."""
    return np.concatenate([x[:, 1:], np.zeros_like(x[:, :1])], axis=1)


def counted(first: np.ndarray) -> np.ndarray:
    """Returns (S,): steps since the start of the episode."""
    at = np.arange(len(first))
    return at - np.maximum.accumulate(np.where(first, at, 0))


def _late(
    seen: Recorded, known: Known, meaning: Meaning, first: np.ndarray, edges: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Returns (S,): true for episodes that may have begun before their recording."""
    begins = np.append(True, edges[:-1]) & ~starts
    if meaning == "end" and (seen.cut is not None or edges.sum() == 1):
        return np.zeros(len(first), bool)  # These recordings begin with an episode.
    length = np.diff(np.append(np.flatnonzero(first), len(first)))
    late = begins[first] & (length < (known.horizon or length.max() + 1))
    return np.repeat(late, length)


def _impossible(found: Boundaries, reward: np.ndarray, known: Known) -> Iterator[str]:
    longest = int(found.count.max()) + 1
    if known.horizon and longest > known.horizon:
        yield f"an episode of {longest:,} steps where the time limit is {known.horizon:,}"
    if known.most is not None:
        total = np.add.reduceat(reward, np.flatnonzero(found.first))
        with np.errstate(invalid="ignore"):
            over = total[total > known.most + 1e-4 * max(1.0, abs(known.most))]
        if len(over):
            yield f"an episode returns {over.max():.4g} where the best returns {known.most:g}"


# --------------------------------------------------------------------------------------------------- agents


def _of_team(flags: np.ndarray, ended: np.ndarray, team: Team) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns (R, T) flags of the team, those that are no cuts, and a description of doubts.

    all: true at the step when all agents have been flagged. any: true when one is flagged.
    """
    if team == "any" or (flags == flags[..., :1]).all():
        by_state = ended.any(2) if team == "any" else ended.all(2)
        return np.asarray(flags.any(2)), np.asarray(by_state), ""
    closed, terminal = np.zeros(flags.shape[:2], bool), np.zeros(flags.shape[:2], bool)
    again = 0
    for row in range(len(flags)):
        have, by_state = np.zeros((2, flags.shape[2]), bool)
        before = -2
        up = have.copy()  # Flagged at the previous step.
        down = have.copy()  # Flagged earlier, but not now.
        for t in np.flatnonzero(flags[row].any(1)):
            now = flags[row, t]
            if t > before + 1:
                down |= have
            else:
                down |= up & ~now
            again += bool((now & down).any())
            have, by_state = have | now, by_state | ended[row, t]
            up, before = now, t
            if have.all():
                closed[row, t], terminal[row, t] = True, by_state.all()
                have, by_state, up, down = np.zeros((4, len(now)), bool)
    never = np.flatnonzero(~flags.any((0, 1)))
    doubt = f"agents {', '.join(map(str, never))} are never flagged" if len(never) else ""
    if again and not doubt:
        doubt = f"{again} times an agent is flagged again before all have been"
    return closed, terminal, doubt


# ---------------------------------------------------------------------------------------------------- hints


def _by_change(obs: np.ndarray, flagged: np.ndarray) -> Meaning | None:
    """Infers the meaning: observations change more between episodes than within one. Returns None if unclear."""
    alone = flagged[:, 1:-1] & ~flagged[:, :-2] & ~flagged[:, 2:]
    row, at = np.nonzero(alone)
    if len(at) < _FEWEST:
        return None
    at = at + 1
    with np.errstate(invalid="ignore", over="ignore"):
        before, here, after = (
            np.asarray(obs[row, at + k], np.float64).reshape(len(at), -1) for k in (-1, 0, 1)
        )
        into, out = np.abs(here - before).sum(1), np.abs(after - here).sum(1)
        starts, ends = int((into > out).sum()), int((out > into).sum())
    if starts + ends < _FEWEST:
        return None
    share = starts / (starts + ends)
    return "start" if share >= _SHARE else "end" if share <= 1 - _SHARE else None


def _by_rows_start(flagged: np.ndarray) -> bool:
    """Returns whether each row begins with a flag and ends without one."""
    return bool(flagged[:, 0].all() and not flagged[:, -1].any())
