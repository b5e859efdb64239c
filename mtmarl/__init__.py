"""mtmarl: cooperative multi-agent policies from offline data of many tasks, compiled end to end in JAX.

policy = mtmarl.load_policy("runs/mt_oryx/lbf_5/seed_0")
mtmarl.evaluate_policy(policy, "lbf/9x9-3p-2f", episodes=320, seed=0)
agent = policy.agent(team=5)  # reset(), act(obs, action_mask): for a loop of your own
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtmarl.algos import ALGOS
    from mtmarl.data.imports import write_vault
    from mtmarl.data.recorder import Recorder
    from mtmarl.data.vault import read_vault
    from mtmarl.envs.api import Family
    from mtmarl.envs.host import from_pettingzoo
    from mtmarl.envs.registry import make_env, register_family
    from mtmarl.estimate import estimate_policy
    from mtmarl.runs.policy import evaluate_policy, load_policy

__version__ = "0.1.0"

_LAZY = {
    "ALGOS": "mtmarl.algos",
    "Family": "mtmarl.envs.api",
    "Recorder": "mtmarl.data.recorder",
    "estimate_policy": "mtmarl.estimate",
    "evaluate_policy": "mtmarl.runs.policy",
    "from_pettingzoo": "mtmarl.envs.host",
    "load_policy": "mtmarl.runs.policy",
    "make_env": "mtmarl.envs.registry",
    "register_family": "mtmarl.envs.registry",
    "read_vault": "mtmarl.data.vault",
    "write_vault": "mtmarl.data.imports",
}
__all__ = [
    "ALGOS",
    "Family",
    "Recorder",
    "__version__",
    "estimate_policy",
    "evaluate_policy",
    "from_pettingzoo",
    "load_policy",
    "make_env",
    "read_vault",
    "register_family",
    "write_vault",
]


def __getattr__(name: str) -> Any:
    # Public names load on first use: `import mtmarl` and every `--help` stay instant, without jax.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mtmarl' has no attribute {name!r}")
