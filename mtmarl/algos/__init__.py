"""The algorithms. A new one is a module here, a YAML in configs/algo, and a line below."""

from mtmarl.algos import mt_bc_sable, mt_cql_sable, mt_oryx, sable

# Trained on vaults: make(config, dims, value_range). `value_range` is None where the config has no gamma.
OFFLINE = {"mt_oryx": mt_oryx, "mt_cql_sable": mt_cql_sable, "mt_bc_sable": mt_bc_sable}
# Trained by acting: make(config, dims, updates).
ONLINE = {"sable": sable}
ALGOS = {**OFFLINE, **ONLINE}
