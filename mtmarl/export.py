"""Writes a policy as files that act with jax alone (`pip install jax flatbuffers`), without this library.

    python -m mtmarl.export run=runs/quickstart teams=3,5 out=policy [task=FAMILY/SCENARIO] [which=best|last] \\
        [sample_probability=0]

OUT gets team_N.jax for each team size N (programs with the parameters inside, for CPU and GPU), policy.json, and
loader.py, which you may copy:

    agent = loader.load("policy", team=3)
    agent.reset(seed=0)
    action = agent.act(obs, action_mask)
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtmarl import terminal
from mtmarl.errors import UserError, exit_with, failed

LOADER = '''"""Acts with an exported policy. Needs jax, NumPy and flatbuffers, which jax reads programs with."""

import json
from pathlib import Path

import jax
import numpy as np
from jax import export


class Agent:
    def __init__(self, folder, team):
        self.about = json.loads((Path(folder) / "policy.json").read_text())
        read = lambda name: export.deserialize(bytearray((Path(folder) / f"{name}_{team}.jax").read_bytes()))
        self._start, self._step, self.team = jax.jit(read("start").call), jax.jit(read("team").call), team
        self.reset()

    def reset(self, seed=0, episode=0):
        """Begins an episode."""
        self._state, self._steps = self._start(np.int32(seed), np.int32(episode)), 0

    def act(self, obs, action_mask=None, reward=0.0):
        """obs [N, O], action_mask [N, A] (None: all actions are legal); returns actions [N]."""
        if action_mask is None:
            action_mask = np.ones((self.team, self.about["actions"]), bool)
        obs, mask = np.asarray(obs, np.float32), np.asarray(action_mask, bool)
        self._state, action = self._step(self._state, obs, mask, np.float32(reward), np.int32(self._steps))
        self._steps += 1
        return np.asarray(action)


def load(folder, team):
    return Agent(folder, team)
'''


def export_policy(
    policy: Any, teams: list[int], out: Path, task: str | None = None, sample_probability: float = 0.0
) -> None:
    """Writes the files of a policy for these team sizes. Raises UserError where the task does not fit."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import export

    from mtmarl.files import write_together
    from mtmarl.random_streams import Stream, branch, stream

    contents: dict[Path, str | bytes] = {out / "loader.py": LOADER}
    platforms = ("cpu", "cuda")
    for team in teams:
        agent = policy.agent(task, team, sample_probability)
        spec = agent.spec

        # Only lists and tuples can be exported: a state is the list of its arrays, the first of which is the key.
        tree = jax.tree.structure(jax.eval_shape(agent.fresh, stream(0, Stream.EPISODES)))

        def start(seed, episode, agent=agent):
            key = stream(seed, Stream.EPISODES, episode)
            return [jax.random.key_data(key), *jax.tree.leaves(agent.fresh(key))]

        def step(state, obs, mask, reward, steps, agent=agent, tree=tree):
            key = branch(jax.random.wrap_key_data(state[0]), Stream.PLAY, steps)
            laid_out, carry = jax.tree.unflatten(tree, state[1:])
            carry, action = agent.step(policy.params, laid_out, carry, obs, mask, reward, key)
            return [state[0], *jax.tree.leaves((laid_out, carry))], action

        of = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)
        number = of((), jnp.int32)
        state = jax.eval_shape(start, number, number)
        shown = of((team, spec.obs), jnp.float32), of((team, spec.actions), jnp.bool_), of((), jnp.float32)
        for name, function, arguments in (
            ("start", start, (number, number)), ("team", step, (state, *shown, number)),
        ):  # fmt: skip
            exported = export.export(jax.jit(function), platforms=platforms)(*arguments)
            contents[out / f"{name}_{team}.jax"] = bytes(exported.serialize())
    about = {
        "algorithm": policy.config.algo_name,
        "task": spec.name,
        "teams": teams,
        "obs": spec.obs,
        "actions": spec.actions,
        "sample_probability": sample_probability,
        "parameters": int(sum(np.size(x) for x in jax.tree.leaves(policy.params))),
        "jax": jax.__version__,
    }
    write_together({**contents, out / "policy.json": json.dumps(about, indent=1) + "\n"})


OPTIONS = {"run": None, "teams": None, "out": None, "task": "", "which": "best", "sample_probability": "0"}


def read_options(argv: list[str]) -> dict[str, str]:
    """The options of the command line. Raises UserError for one that is unknown or missing."""
    found = dict(OPTIONS)
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals or key not in OPTIONS:
            raise UserError(f"{word}: no such option; choose of {', '.join(f'{k}=' for k in OPTIONS)}")
        found[key] = value
    missing = [f"{key}=" for key, value in found.items() if value is None]
    if missing:
        raise UserError(f"{', '.join(missing)} missing; see --help")
    return {key: str(value) for key, value in found.items()}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if any(word in ("-h", "--help") for word in argv):
        terminal.say(*(__doc__ or "").splitlines())
        return 0
    try:
        options = read_options(argv)
        try:
            teams = [int(n) for n in options["teams"].split(",")]
            share = float(options["sample_probability"])
        except ValueError:
            raise UserError(
                f"teams={options['teams']}: expected numbers of agents, as in teams=3,5"
            ) from None
        if find_spec("flatbuffers") is None:
            raise UserError("flatbuffers is missing; pip install 'mtmarl[export]'")
        from mtmarl.runs.policy import load_policy

        policy = load_policy(options["run"], options["which"])
        export_policy(policy, teams, Path(options["out"]).expanduser(), options["task"] or None, share)
        terminal.say(f"wrote {options['out']}: teams of {', '.join(map(str, teams))}, policy.json, loader.py")
        return 0
    except (UserError, OSError) as error:
        return failed(error)


if __name__ == "__main__":
    exit_with(main)
