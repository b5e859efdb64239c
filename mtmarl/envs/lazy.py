"""Simulators that are made when they are first used."""

from collections.abc import Callable
from typing import Any

import jax


class Lazy:
    """An environment of Jumanji that is made when more is asked of it than `known`, attributes that it will have.

    To make one compiles up to twenty small programs, which takes a second. The check of a sweep and of a command line
    only needs the sizes of its tasks.
    """

    def __init__(self, make: Callable[[], Any], **known: Any):
        self.__dict__.update(known, _make=make, _made=None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Such as those that `copy` and `pickle` look for.
            raise AttributeError(name)
        if self.__dict__["_made"] is None:
            with jax.ensure_compile_time_eval():  # Its arrays outlive a trace in which it may be made.
                self.__dict__["_made"] = self.__dict__["_make"]()
        return getattr(self.__dict__["_made"], name)
