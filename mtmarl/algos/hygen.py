"""HyGen: skills discovered in recorded data, chosen among by hybrid training (Zhang et al. 2024).

First phase: that of ODIS, but for a state encoder of several heads, as many as there are skills. Second phase: the
value network of ODIS on batches of which a falling share is recorded and the rest was just played in the training tasks
(`data.hybrid`). The conservative penalty falls with that share, and the decoder goes on learning:

    L = L_TD  +  w_s L_consistency  +  w_c share L_CQL  +  w_r L_decoder                    (equation 6, and L_decoder)

Departures from the paper: equation 3 prints a share that grows, meant is the one that falls, as released. The released
code calls the decoder refined but computes no loss of it: L_decoder is that of the first phase, with the skills that
the state names. L_CQL (released: of all rows) and L_decoder are of recorded rows, `conservative_rows` and
`refine_rows`: while most of what is played is random, it is nothing to hold values to or to imitate. The rest as in
ODIS: no numbered agents, windows, legal actions, a head of its own for aims, no values learned at time limits, updates
counted for all tasks together, and means over real steps of real agents. Values of skills are learned for those that
the state names, also where another one was played. The released mode in which the share follows the win rate is not
supported.
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
    """`heads` of the state encoder, `head_width` wide each; None: as many as skills.

    share: of recorded rows in a batch of the second phase; linear: from `start_share` to `end_share` over the first
    `decay_fraction` of its updates. conservative: its weight times the share (dynamic), as it stands (fixed), or none.
    consistency: of an agent's recognised skill with the one that the state names, the cross-entropy of that label
    (released) or KL(recognised || named) (equation 5). refine_weight: of the decoder's loss in the second phase; 0
    leaves the decoder as it is. conservative_rows, refine_rows: those that these two losses are means of. capacity: env
    steps that are kept for replay, every task has the same part of them. `epsilon_fraction`: of the second phase. The
    rest as for ODIS.
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
        """The share of recorded rows in a run of `updates` in all; `update` counts from the second phase on."""
        if self.share != "linear":
            return jnp.full_like(update, self.share, jnp.float32)
        done = jnp.clip(update / (self.decay_fraction * self._choosing(updates)), 0.0, 1.0)
        return self.start_share + (self.end_share - self.start_share) * done

    def exploration(self, update: jax.Array, updates: int | float) -> jax.Array:
        """As for QMIX, of the second phase, from which on `update` counts."""
        return super().exploration(update, self._choosing(updates))

    def _choosing(self, updates: int | float) -> float:
        """Updates of the second phase."""
        return (1 - self.skill_fraction) * updates


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    """A batch that does not say its share in `extras` is recorded throughout."""
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
