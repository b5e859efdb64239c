"""The algorithms. A new one is a module here, a YAML in configs/algo, and a line below.

make(config, dims, …) names what else it needs: `updates` of the run, or the `value_range` of discounted returns in the
vaults, which is None where the config has no gamma. TASK_FEATURES in a module: observations tell what task they are of.
SHUFFLES_SLOTS: the network reads observation columns by their position, so interchangeable objects are shuffled.
"""

from mtmarl.algos import (
    bc_r,
    bc_t,
    care,
    hissd,
    hygen,
    m3,
    m3_finetune,
    madt,
    madt_finetune,
    mappo,
    mt_bc_sable,
    mt_cql_sable,
    mt_oryx,
    odis,
    qmix,
    sable,
    updet,
)

# Trained on vaults.
OFFLINE = {
    "mt_oryx": mt_oryx,
    "mt_cql_sable": mt_cql_sable,
    "mt_bc_sable": mt_bc_sable,
    "bc_t": bc_t,
    "bc_r": bc_r,
    "updet_m": updet,
    "updet_l": updet,
    "odis": odis,
    "hissd": hissd,
    "madt": madt,
    "m3": m3,
}
# Trained by acting.
ONLINE = {"sable": sable, "qmix": qmix, "mappo": mappo, "madt_finetune": madt_finetune, "care": care}
# Trained on both.
HYBRID = {"hygen": hygen, "m3_finetune": m3_finetune}
ALGOS = {**OFFLINE, **ONLINE, **HYBRID}
