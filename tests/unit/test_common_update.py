"""Where several runs that were stopped go on together."""

from pathlib import Path

import pytest

from mtmarl.errors import UserError
from mtmarl.training.run import common_update


def test_the_newest_checkpoint_that_all_have():
    a, b = Path("seed_0"), Path("seed_1")
    assert common_update({a: [4, 8], b: [0, 4]}) == 4
    assert common_update({a: [], b: []}) is None
    assert common_update({a: [0], b: []}) is None, "stopped at the first save: all start anew"
    assert common_update({a: [4], b: []}) is None, "stopped between the first saves"
    for apart in ({a: [8, 12], b: [0, 4]}, {a: [4, 8], b: []}):
        with pytest.raises(UserError, match=r"seed_0 at update .* seed_1 at update"):
            common_update(apart)
