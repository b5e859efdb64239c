"""The algorithms. A new one is a module here, a YAML in configs/algo, and a line below."""

from mtmarl.algos import bc_r, bc_t, hissd, mt_bc_sable, mt_cql_sable, mt_oryx, odis, qmix, sable, updet

# Trained on vaults: make(config, dims, value_range). `value_range` is None where the config has no gamma.
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
}
# Trained by acting: make(config, dims, updates).
ONLINE = {"sable": sable, "qmix": qmix}
ALGOS = {**OFFLINE, **ONLINE}
