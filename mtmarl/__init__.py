"""mtmarl: cooperative multi-agent policies from offline data of many tasks, compiled end to end in JAX.

env = mtmarl.make_env("lbf/8x8-2p-2f-coop")
policy = mtmarl.load_policy("runs/mt_oryx/lbf_5/seed_0")
mtmarl.evaluate_policy(policy, "lbf/9x9-3p-2f", episodes=320, seed=0)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "ALGOS": "mtmarl.algos",
    "evaluate_policy": "mtmarl.runs.policy",
    "from_pettingzoo": "mtmarl.envs.host",
    "load_policy": "mtmarl.runs.policy",
    "make_env": "mtmarl.envs.registry",
    "read_vault": "mtmarl.data.vault",
    "write_vault": "mtmarl.data.imports",
}
__all__ = [*_LAZY, "__version__"]


def __getattr__(name: str) -> Any:
    # Public names load on first use: `import mtmarl` and every `--help` stay instant, without jax.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mtmarl' has no attribute {name!r}")
