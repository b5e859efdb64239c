"""Marks for tests of what needs an optional package."""

from importlib.util import find_spec

import pytest

needs_jaxmarl = pytest.mark.skipif(
    find_spec("jaxmarl") is None, reason="JaxMARL is not installed; pip install 'mtmarl[smax]'"
)
