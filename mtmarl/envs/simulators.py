"""Simulators that run on the host: PettingZoo parallel environments behind a pure interface. Imports no jax.

An episode is a pure function of its seed and the actions so far, so these alone are its state. Live simulators are a
cache: the next step of an episode takes the simulator that has just made the one before, and any other episode (a copy
of one that has gone on, or one of a saved run) is played again from its seed.
"""

import itertools
import multiprocessing
import traceback
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mtmarl.errors import SimulatorError, UserError

TeamReward = Literal["mean", "sum"]


class Sizes(NamedTuple):
    """Of one task: agents N in a fixed order, observation width O and number of actions A of the widest agent."""

    agents: tuple[str, ...]
    obs: tuple[int, ...]
    actions: tuple[int, ...]


class Outcome(NamedTuple):
    """What a batch of B simulators shows: `[B, N, O]`, `[B, N, A]`, `[B]`, `[B]`, `[B]`."""

    obs: np.ndarray
    action_mask: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def sizes_of(env: Any, name: str) -> Sizes:
    """What the spaces of a PettingZoo parallel environment say. Raises UserError where an action is not discrete."""
    agents = tuple(env.possible_agents)
    obs, actions = [], []
    for agent in agents:
        space, acts = env.observation_space(agent), env.action_space(agent)
        space = getattr(space, "spaces", {}).get("observation", space)  # beside its own action mask
        if getattr(space, "shape", None) is None:
            raise UserError(
                f"{name}: the observation of {agent} is {space}; flatten it to one array of numbers"
            )
        if getattr(acts, "n", None) is None or getattr(acts, "start", 0) != 0:
            raise UserError(
                f"{name}: the action of {agent} is {acts}; only Discrete(n) actions are supported"
            )
        obs.append(int(np.prod(space.shape)))
        actions.append(int(acts.n))
    return Sizes(agents, tuple(obs), tuple(actions))


class Simulators:
    """Many episodes of one task in this process.

    `make() -> env` builds a parallel environment. At most `most` simulators stay alive.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        name: str,
        sizes: Sizes,
        horizon: int,
        team_reward: TeamReward,
        most: int = 256,
    ):
        self.make, self.name, self.sizes, self.horizon, self.most = make, name, sizes, horizon, most
        self.team_reward = team_reward
        self._agents = tuple(zip(sizes.agents, sizes.obs, sizes.actions, strict=True))
        self.replayed = 0
        self._numbers = itertools.count(1)
        # By handle: the simulator, its seed, how many actions it has been through, and their digest.
        self._live: OrderedDict[int, tuple[Any, int, int, int]] = OrderedDict()
        self._spare: list[Any] = []

    def reset(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, Outcome]:
        """New episodes from seeds [B] int: handles [B] int32, digests [B] int32, and what they show."""
        self.most = max(self.most, 4 * len(seeds))
        out = self._blank(len(seeds))
        handles = np.asarray([self._begin(int(seed), out, row) for row, seed in enumerate(seeds)], np.int32)
        return handles, np.zeros_like(handles), self._checked(out)

    def step(
        self,
        handles: np.ndarray,
        digests: np.ndarray,
        over: np.ndarray,
        seeds: np.ndarray,
        counts: np.ndarray,
        history: np.ndarray,
        actions: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, Outcome]:
        """One more step of each episode; `history` [B, H, N] holds `counts` [B] earlier actions, whose digest the state
        has. Nothing is played of episodes that are `over`: nobody looks at what follows.
        """
        self.most = max(self.most, 4 * len(seeds))
        handles, digests, out = handles.copy(), digests.copy(), self._blank(len(seeds))
        for row in range(len(seeds)):
            if over[row]:
                out.action_mask[row, :, 0] = out.terminated[row] = True
                continue
            handle, seed, done = int(handles[row]), int(seeds[row]), history[row, : counts[row]]
            if self._live.get(handle, (None,))[1:] != (seed, len(done), int(digests[row])):
                handle = self._replay(seed, done)
            handles[row] = handle
            digests[row] = self._advance(handle, actions[row], out, row)
        return handles, digests, self._checked(out)

    def _begin(self, seed: int, out: Outcome, row: int) -> int:
        env = self._free()
        seen, infos = self._call("reset", lambda: env.reset(seed=seed))
        handle = next(self._numbers) % (2**31 - 1)
        self._live[handle] = (env, seed, 0, 0)
        self._show(out, row, env.agents, seen, infos)
        return handle

    def _replay(self, seed: int, history: np.ndarray) -> int:
        self.replayed += 1
        unseen = self._blank(1)
        handle = self._begin(seed, unseen, 0)
        for actions in history:
            self._advance(handle, actions, unseen, 0)
        return handle

    def _advance(self, handle: int, actions: np.ndarray, out: Outcome, row: int) -> int:
        """The digest of all actions of the episode, this one included."""
        env, seed, count, digest = self._live.pop(handle)
        chosen = dict(zip(self.sizes.agents, actions.tolist(), strict=True))
        if len(env.agents) < len(chosen):
            chosen = {agent: chosen[agent] for agent in env.agents}
        seen, rewards, _, truncations, infos = self._call("step", lambda: env.step(chosen))
        each = [float(rewards[a]) for a in chosen if a in rewards]
        out.reward[row] = sum(each) / (len(each) if self.team_reward == "mean" and each else 1)
        gone = not env.agents
        out.terminated[row] = gone and not any(truncations.get(a, False) for a in chosen)
        out.truncated[row] = (gone or count + 1 >= self.horizon) and not out.terminated[row]
        self._show(out, row, env.agents, seen, infos)
        digest = _digest(actions, digest)
        if gone or count + 1 >= self.horizon:
            self._spare.append(env)
        else:
            self._live[handle] = (env, seed, count + 1, digest)
        return digest

    def _free(self) -> Any:
        if self._spare:
            return self._spare.pop()
        if len(self._live) >= self.most:
            return self._live.popitem(last=False)[1][0]
        return self._call("make", self.make)

    def _call(self, what: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Exception as error:  # Whatever the simulator raises.
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise SimulatorError(
                f"{self.name}: its {what} failed: {type(error).__name__}: {error} ({at.filename}:{at.lineno})"
            ) from error

    def _show(
        self, out: Outcome, row: int, acting: Sequence[str], seen: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> None:
        """Writes what the agents see and may do; who has left sees zeros and may only do action 0."""
        for i, (agent, width, legal) in enumerate(self._agents):
            if agent in seen:
                own, given = seen[agent], infos.get(agent)
                mask = given.get("action_mask") if given else None
                if isinstance(own, Mapping):
                    own, mask = own["observation"], own.get("action_mask", mask)
                own = np.asarray(own)
                if own.size != width:
                    raise SimulatorError(
                        f"{self.name}: {agent} sees {own.size} numbers, and its space says {width}"
                    )
                out.obs[row, i, :width] = own if own.ndim == 1 else own.ravel()
                if agent in acting:
                    out.action_mask[row, i, :legal] = True if mask is None else mask
                    if mask is None or out.action_mask[row, i].any():
                        continue
            out.action_mask[row, i, 0] = True

    def _blank(self, rows: int) -> Outcome:
        s = self.sizes
        obs = np.zeros((rows, len(s.agents), max(s.obs)), np.float32)
        mask = np.zeros((rows, len(s.agents), max(s.actions)), bool)
        return Outcome(obs, mask, np.zeros(rows, np.float32), np.zeros(rows, bool), np.zeros(rows, bool))

    def _checked(self, out: Outcome) -> Outcome:
        """Raises SimulatorError for the first number that is not finite."""
        if not np.isfinite(out.obs).all():
            row, i, at = np.argwhere(~np.isfinite(out.obs))[0]
            agent, value = self.sizes.agents[i], out.obs[row, i, at]
            raise SimulatorError(f"{self.name}: {agent}: observation [{at}] is {value}; it must be finite")
        if not np.isfinite(out.reward).all():
            value = out.reward[~np.isfinite(out.reward)][0]
            raise SimulatorError(f"{self.name}: a reward is {value}; it must be finite")
        return out


def _digest(actions: np.ndarray, before: int) -> int:
    """Of all actions so far, from that of those before; below 2^31."""
    return zlib.crc32(actions.tobytes(), before) & 0x7FFFFFFF


# ------------------------------------------------------------------------------------------- processes


def _serve(pipe: Any, arguments: tuple) -> None:
    """A worker: answers (method, arrays) until the pipe is closed."""
    simulators = Simulators(*arguments)
    while True:
        try:
            method, arrays = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(getattr(simulators, method)(*arrays))
        except Exception as error:
            pipe.send(error)


class Workers:
    """Simulators in other processes: row b of a batch is played by worker b % count. `make` must be picklable."""

    def __init__(self, count: int, *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def reset(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, Outcome]:
        return self._ask("reset", seeds)

    def step(self, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray, Outcome]:
        return self._ask("step", *arrays)

    def _ask(self, method: str, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray, Outcome]:
        count, rows = len(self._pipes), len(arrays[0])
        busy = self._pipes[: min(count, rows)]
        for i, pipe in enumerate(busy):
            pipe.send((method, tuple(x[i::count] for x in arrays)))
        answers = []
        for i, pipe in enumerate(busy):
            try:
                answers.append(pipe.recv())
            except EOFError:
                raise SimulatorError(f"worker {i} died; it may have run out of memory") from None
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

        def join(parts: Sequence[np.ndarray]) -> np.ndarray:
            out = np.empty((rows, *parts[0].shape[1:]), parts[0].dtype)
            for i, part in enumerate(parts):
                out[i::count] = part
            return out

        handles, digests, outcomes = zip(*answers, strict=True)
        return (
            join(handles),
            join(digests),
            Outcome(*(join(column) for column in zip(*outcomes, strict=True))),
        )
