"""The algorithms. A new one is a module here, a YAML in configs/algo, and a line below."""

from mtmarl.algos import mt_oryx, sable

ALGOS = {"mt_oryx": mt_oryx, "sable": sable}
OFFLINE = frozenset({"mt_oryx"})
