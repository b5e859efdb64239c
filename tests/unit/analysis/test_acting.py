"""What reports say of how actions were chosen, against the algorithms themselves."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mtmarl import config, report
from mtmarl.acting import GREEDY, SAMPLED
from mtmarl.algos import ALGOS
from mtmarl.analysis import facts, sections
from mtmarl.runs import resume
from mtmarl.types import Observation, example_batch
from tests.contract.test_algos import DIMS, make
from tests.unit.analysis.run_directories import write_run

ROWS = 256


def write(directory, algo="mt_oryx", explore=1.0, **settings):
    """A run of before runs recorded the title of their algorithm and how it acts."""
    recorded = {"algo": settings, "evaluator": {"explore": explore}}
    run = facts.read(write_run(directory, {"lbf/a": 1.0}, {"lbf/b": 0.5}, algo=algo, config=recorded))
    return report.completed(run)


def test_reports_name_which_methods_sample_and_which_are_greedy(tmp_path):
    for algo, settings in (("mt_oryx", {}), ("mt_cql_sable", {"acting_temperature": 0.0}), ("updet_l", {})):
        write(tmp_path / algo, algo, **settings)
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "report/report.md").read_text()
    assert "Actions are greedy (MT CQL-Sable, UPDeT-l); sampled from the policy (MT Oryx). " in text


def test_tasks_are_named_where_a_method_chooses_otherwise(tmp_path):
    found = [write(tmp_path / str(t), "mt_cql_sable", acting_temperature=t) for t in (0.0, 1.0)]
    found[1] = replace(found[1], record={**found[1].record, "tasks": "rware_15"})
    text = sections.acting([*found, write(tmp_path / "bc", "mt_bc_sable")])
    assert "greedy (MT CQL-Sable on lbf_5); sampled from a softmax over values at temperature 1" in text
    assert "(MT CQL-Sable on rware_15); sampled from the policy (MT BC-Sable)" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALGOS))
def test_algorithms_act_as_reports_say(name, tmp_path):
    """With `explore` at 1 and the settings of its YAML file; the share of actions that change with the key."""
    settings, algo = config.compose([f"+algo={name}", "+tasks=lbf_5"], "train").algo, make(name)
    params = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS)).params
    everything = np.ones((ROWS, 3, 5), bool), np.ones((ROWS, 3), bool)
    obs = Observation(jax.random.normal(jax.random.key(1), (ROWS, 3, 7)), *everything)
    act = jax.jit(algo.act)
    once, again = (act(params, algo.init_carry(ROWS, 3), obs, jax.random.key(k), 1.0)[1] for k in (2, 3))
    change = float(np.mean(np.asarray(once) != np.asarray(again)))
    words = sections.acting([write(tmp_path, name, **settings)])
    if words == GREEDY:
        assert change == 0
    elif words == SAMPLED:
        assert change > 0.3
    else:
        assert words == "epsilon-greedy with epsilon 0.05" and 0.03 < change < 0.15


def test_what_a_run_records_of_its_algorithm_stands(tmp_path):
    """The words and the name of algorithms that this version does not know; without words the report says so."""
    cfg = config.compose(["+algo=updet_l", "+tasks=lbf_5"], "train")
    record = resume.write_run(tmp_path / "recorded", cfg, "train", [], [])
    assert (record["title"], record["acting"]) == ("UPDeT-l", "greedy")
    found = [write(tmp_path / "new", "new"), write(tmp_path / "bc", "mt_bc_sable")]
    assert sections.acting(found[:1]) == "chosen in a way that was not recorded"
    found[0] = replace(found[0], record={**found[0].record, "title": "New", "acting": "drawn by lot"})
    assert sections.acting(found) == "drawn by lot (New); sampled from the policy (MT BC-Sable)"


@pytest.mark.parametrize("name", sorted(ALGOS))
def test_records_of_before_get_the_same_words_and_names(name, tmp_path):
    spec, settings = ALGOS[name], config.compose([f"+algo={name}", "+tasks=lbf_5"], "train").algo
    for explore in (0.0, 0.5, 1.0):
        run = write(tmp_path / str(explore), name, explore, **settings)
        assert run.title == spec.title and sections.acting([run]) == spec.acting(settings, explore)
