"""HyGen: skills discovered in recorded data, then selected by hybrid training (Zhang et al. 2024).

Phase 1 is that of ODIS, with a state encoder of as many heads as skills. Phase 2 trains the value network of ODIS on
batches of recorded and fresh rows (`data.hybrid`). The share of recorded rows falls, and the weight of the conservative
penalty with it. The decoder keeps learning:

    L = L_TD  +  w_s L_consistency  +  w_c share L_CQL  +  w_r L_decoder                    (equation 6, and L_decoder)

Departures: docs/departures.md.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from mtmarl import acting
from mtmarl.algos import odis
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.algos.qmix import EpsilonGreedy
from mtmarl.networks import entities
from mtmarl.networks.odis import SKILL_MODULES, MultiHeadEncoder
from mtmarl.ranges import Count, NotNegative, Share, SomeShare, Width
from mtmarl.types import Batch, Dims


@dataclass(frozen=True, kw_only=True)
class Config(odis.Config, EpsilonGreedy):
    """`heads` of the state encoder, each `head_width` wide; None: as many as skills.

    share: schedule of the share of recorded rows in phase 2; linear: from `start_share` to `end_share` over the first
    `decay_fraction` of its updates. conservative: penalty weight times the share (dynamic), constant (fixed), or none.
    consistency: loss between the skills of agent and state encoder: cross-entropy with its label (released) or KL(agent
    || state encoder) (equation 5). refine_weight: weight of the decoder's loss in phase 2; 0 freezes the
    decoder. conservative_rows, refine_rows: rows that these two losses use. capacity: env steps of the replay buffer,
    divided equally among tasks. `epsilon_fraction`: of phase 2. The rest as for ODIS.
    """

    heads: Width | None
    head_width: Width
    share: Literal["linear"] | Share
    start_share: Share
    end_share: Share
    decay_fraction: SomeShare
    conservative: Literal["dynamic", "fixed", "none"]
    conservative_rows: Literal["recorded", "all"]
    consistency: Literal["label", "kl"]
    refine_weight: NotNegative
    refine_rows: Literal["recorded", "all"]
    capacity: Count

    def share_at(self, update: jax.Array, updates: int) -> jax.Array:
        """Returns the share of recorded rows. `update` counts from the start of phase 2."""
        if self.share != "linear":
            return jnp.full_like(update, self.share, jnp.float32)
        done = jnp.clip(update / (self.decay_fraction * self._choosing(updates)), 0.0, 1.0)
        return self.start_share + (self.end_share - self.start_share) * done

    def exploration(self, update: jax.Array, updates: int | float) -> jax.Array:
        """As for QMIX; `update` counts from the start of phase 2."""
        return super().exploration(update, self._choosing(updates))

    def _choosing(self, updates: int | float) -> float:
        """Returns the number of updates in phase 2."""
        return (1 - self.skill_fraction) * updates


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    """A batch without a share in `extras` has recorded rows only."""
    heads = config.skills if config.heads is None else config.heads
    encoder = MultiHeadEncoder(config.network.embed_dim, heads, config.head_width)
    model = odis.make_model(config, dims, value_range, encoder, config.consistency)
    refined = config.refine_weight > 0
    frozen = [name for name in SKILL_MODULES if name != "decoder" or not refined]

    def loss(params, target, batch: Batch, key):
        everywhere = jnp.ones(batch.task_id.shape, bool)
        share = batch.extras["share"][0] if "share" in batch.extras else jnp.ones(())
        recorded = batch.extras.get("recorded", everywhere)
        part = {"dynamic": share, "fixed": 1.0, "none": 0.0}[config.conservative]
        weight = config.conservative_weight * part
        rows = {"recorded": recorded, "all": everywhere}
        total, metrics = model.choose(params, target, batch, weight, rows[config.conservative_rows])
        metrics = {**metrics, "share": share, "conservative_weight": jnp.asarray(weight)}
        if refined:
            known = batch.time_mask & rows[config.refine_rows][:, None]
            nll, _ = model.refine(params, batch._replace(time_mask=known))
            total, metrics = total + config.refine_weight * nll, {**metrics, "decoder_loss": nll}
        return total, metrics

    def act(params, carry, observation, key, sample_probability):
        """Epsilon-greedy over legal actions, with epsilon = `sample_probability * final_epsilon`."""
        history, logits = model.play(params, carry, observation)
        action = entities.choose(
            logits, observation, key, sample_probability * config.final_epsilon, uniform=True
        )
        return entities.AgentCarry(history, action), action, {}

    return odis.two_phases(config, model, dims, loss, act, frozen, "hybrid")


SPEC = Spec(
    Config=Config,
    make=make,
    kind="hybrid",
    title="HyGen",
    needs=("value_range",),
    learns_values=True,
    acting=acting.nearly_greedily,
    decentralised=True,
)
