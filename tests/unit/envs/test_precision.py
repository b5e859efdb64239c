"""JAX's 64-bit mode: what cannot play in it says so."""

import jax
import pytest

from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError


@pytest.mark.parametrize("name", ["connector/con-5x5x3a", "rware/tiny-2ag", "smax/3m"])
def test_an_environment_that_needs_32_bits_says_so(name):
    if name.startswith("smax"):
        pytest.importorskip("jaxmarl")
    with jax.enable_x64(True), pytest.raises(UserError, match="needs 32-bit numbers; unset JAX_ENABLE_X64"):
        make_env(name)
    assert make_env(name)
