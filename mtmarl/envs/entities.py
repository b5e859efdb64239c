"""The entities of tasks in a layout.

Everything is computed from observations and legal actions, which vaults hold; the state of a team is what its agents
see together, so nothing else has to be recorded. Padded agents contribute nothing to it.
"""

from collections.abc import Iterable
from dataclasses import replace

import jax.numpy as jnp

from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import get_family
from mtmarl.types import Entities, Observation, TaskSpec, Tokens


def of_layout(layout: Layout, trained_on: Iterable[TaskSpec] = ()) -> Entities | None:
    """How observations in a layout split; agent numbers go to the agent's own token, task features to none.
    `trained_on`: the tasks whose batches will be seen; see `types.Entities.most_objects`.

    None for several families at once, whose entities have nothing in common, and for a family without entities:
    networks over entities then see each agent's observation as one entity.
    """
    name, *others = layout.families
    split = None if others else get_family(name).entities
    if split is None:
        return None
    counts = [spec.task_features.get("objects") for spec in trained_on]
    known = [int(count) for count in counts if count is not None]
    own = lambda observation: observation._replace(obs=observation.obs[..., : layout.features])

    def observe(observation: Observation) -> Tokens:
        tokens = split.observe(own(observation))
        numbers = observation.obs[..., layout.known :]
        return tokens._replace(own=jnp.concatenate([tokens.own, numbers], axis=-1))

    return replace(
        split,
        observe=observe,
        team=lambda observation: split.team(own(observation)),
        most_objects=max(known) if known and len(known) == len(counts) else None,
    )
