"""Wrong settings on the command lines of train, collect and evaluate: nothing is compiled, nothing is read but YAML."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.values import generator, pick

# Of no number's type or range.
NO_NUMBER = ("abc", "[1,2]", "{a:1}", ".nan", ".inf", "-.inf", "1e400", "[]", "1_x", "1,2", "0x", "--1")
NO_COUNT = (*NO_NUMBER, "0.5", "-1", "1e30", "-1e9", "true", "99999999999999999999")
NO_SWITCH = ("maybe", "2", "1.5", "[true]", "{a:true}")
NO_TEXT = ("[a,b]", "{a:b}")
TASKS = (
    "lbf/", "/x", "lbf", "lbf/0x0-0p-0f", "lbf/5x5-9p-1f", "lbf/5x6-2p-1f", "lbf/5x5-2p-1f-t0", "lbf/99999x99999-2p-1f",
    "rware/none", "rware/tiny-0ag", "connector/con-1x1x9a", "connector/con-5x5x0a", "smax/none", "other/x", "lbf/../x",
    "lbf/5x5-2p-1f/x", "lbf/５x5-2p-1f", "a/b:c", "lbf/5x5-2p-1f,lbf/5x5-2p-1f",
)  # fmt: skip
WORDS = (
    "=", "+", "++", "~seed", "seed", "seed=", "-x", "--seed=1", "seed==1", "a.b.c=1", "trainer=1", "trainer=[1]",
    "algo=",
    "+algo=", "+tasks=", "+algo=none", "+experiment=none", "+experiment=../x", "trainer.updates=[", "trainer.updates={",
    "trainer.updates='", "trainer.updates=${x}", "trainer.updates=${oc.env:NOT_THERE}", "seeds=[0,0]", "seeds=[]",
    "seeds=[-1]", "seeds=[a]", "tasks.train=[]", "tasks.train=[a]", "tasks.test=[a]", "tasks.first=0", "tasks.first=99",
    "sinks=[none]", "sinks=none", "sinks=[1]", "which=first", "hydra.run.dir=x", "evaluator.select_on=both", 
    "algo_name=x",
    "data.quality=../x", "data.quality=", "data.quality='a b'", "seed=.5", "\x00=1", "é=1", "trainer.updatse=1",
    "evaluator..every=1", ".seed=1", "seed.=1", "data.agent_ids=some", "quiet=perhaps", "run=x", "tasks.name=[a]",
)  # fmt: skip


@cache
def _keys(algo: str) -> list[tuple[str, Any]]:
    """The settings of a run of an algorithm, with their values."""
    from mtmarl import build, config, settings
    from mtmarl.algos import ALGOS

    cfg = config.compose([f"+algo={algo}", "+tasks=micro"], "train")
    whole = {**config.to_dict(cfg), "algo": config.to_dict(build.parse_algorithm(cfg, ALGOS)[1])}
    skipped = ("algo_name", "tasks.", "run", "init_from", "hub.", "sinks", "seeds", "data.vault_dir")
    return [(k, v) for k, v in settings.flatten(whole).items() if not k.startswith(skipped) and v is not None]


def _wrong(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return NO_SWITCH
    if isinstance(value, int):
        return NO_COUNT
    return NO_NUMBER if isinstance(value, float) else NO_TEXT


def _use(argv: list[str], command: str) -> Any:
    """As the command does, up to what it would compile."""
    from mtmarl import build, config
    from mtmarl.envs.registry import make_env
    from mtmarl.runs.identity import train_tasks
    from mtmarl.runs.policy import load_policy

    cfg = config.compose(argv, command)
    if command == "train":
        build.run_spec(cfg)
    elif command == "collect":
        build.parse_algorithm(cfg, build.ONLINE)
        for task in train_tasks(cfg):
            make_env(task)
    else:
        load_policy(cfg.run or "", cfg.which)


def _case(scratch: Path, number: int) -> Case:
    from mtmarl.algos import ALGOS, ONLINE

    rng = generator("settings", number)
    group = ("values", "values", "values", "keys", "words", "tasks")[number % 6]
    command = pick(rng, ["train", "train", "train", "collect"])
    algo = pick(rng, sorted(ALGOS if command == "train" else ONLINE))
    argv = [f"+algo={algo}", "+tasks=micro"]
    key, value = pick(rng, _keys(algo))
    named = ""
    if group == "values":
        named = key
        argv.append(f"{key}={pick(rng, _wrong(value))}")
    elif group == "keys":
        wrong = _misspelt(key, rng)
        named = _first_wrong(wrong.split("."), key.split("."))
        argv.append(f"{wrong}={value}")
    elif group == "words":
        argv.append(pick(rng, WORDS))
    else:
        argv[1] = f"+tasks={pick(rng, TASKS)}"
    if number % 20 == 4:
        command, argv, named = "evaluate", [f"run={scratch}", argv[-1]], ""
    recipe = f"python -m mtmarl.{command} {' '.join(map(repr, argv))}"
    # Every one of them is wrong: what is taken is taken silently.
    return Case(group, recipe, [Door(command, lambda: _use(argv, command), lambda value: False, named)])


def _misspelt(key: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(key)))
    return pick(rng, [key[:at] + "q" + key[at:], key + "_", key[:-1] + "7", f"{key}.more", f"no.{key}"])


def _first_wrong(wrong: list[str], right: list[str]) -> str:
    """The section or key up to which a misspelt key can be followed; the key itself where something is behind it."""
    known = next((i for i, (a, b) in enumerate(zip(wrong, right, strict=False)) if a != b), len(right) - 1)
    return ".".join(wrong[: known + 1])


KINDS = {"settings": Kind("settings", 1200, _case)}
