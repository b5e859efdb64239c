"""mtmarl: cooperative multi-agent policies from offline data of many tasks, compiled end to end in JAX."""

__version__ = "0.1.0"
