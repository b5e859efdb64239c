"""A run goes on under the configuration that it began with, whatever options have been added since."""

import json

import pytest

from mtmarl import build, config
from mtmarl.errors import UserError


def test_only_what_changes_the_result_must_be_the_same(tmp_path):
    compose = lambda *more: config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train")
    assert build.earlier_run(tmp_path, compose()) is None
    record = {"config": config.to_dict(compose())}
    # A record from before these options existed.
    for path in (("seeds",), ("distributed",), ("data", "memory_mb")):
        *groups, key = path
        (record["config"][groups[0]] if groups else record["config"]).pop(key)
    (tmp_path / "run.json").write_text(json.dumps(record))
    for more in ((), ("data.memory_mb=100",), ("distributed=true",), ("quiet=true",), ("tasks.first=5",)):
        assert build.earlier_run(tmp_path, compose(*more)) == record
    for more, named in (
        ("seed=1", "seed"),
        ("algo.gamma=0.5", "algo"),
        ("data.fraction=0.5", "data"),
        ("tasks.first=4", "tasks"),
    ):
        with pytest.raises(UserError, match=rf"other settings \({named}\)"):
            build.earlier_run(tmp_path, compose(more))
