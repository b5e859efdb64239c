"""M3: offline pre-training of one policy for many tasks, with agents' behaviour as shared codes (Meng et al. 2023).

An encoder turns an agent's last steps into z. One part of it (z_e) is shared by all agents and conditioned on the task,
the other (z_i) belongs to the agent. The actor reads z_e. z_e, quantised to one of K codes, and z_i must reconstruct
observation and last action. Equation 6, with signs so that every term is minimised:

    -log pi(a | z_e)  -  w_r log p(o_t, a_t-1 | z_q, z_i)  +  w_k KL(q(z_i | past) || N(0, I))
        +  w_c |sg[z_e] - e|^2  +  w_b |z_e - sg[e]|^2

Squared errors are means over the F features, where equation 4 sums over them. A Gaussian log-likelihood with variance
s^2 is F / 2 s^2 times such a mean; after division by this factor, equation 3 has w_r = 1 and w_k = 2 s^2 / F. So
w_k = 0.001 stands for 50 features that are reconstructed to within s = 0.16. Departures: docs/departures.md.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mtmarl.algos.base import Algorithm, Phase, Spec, adamw, gradient_step, init_learner
from mtmarl.algos.bc_t import cloning
from mtmarl.algos.madt import policy_act
from mtmarl.networks import causal, entities, m3
from mtmarl.ops import masked, skills, vq
from mtmarl.ranges import NotNegative, Positive, Share, Width
from mtmarl.types import Batch, Dims, Learner


@dataclass(frozen=True)
class Config:
    """`codes`: K. `specific_width`: width of z_i. A code restarts when its share of steps, averaged with `usage_decay`,
    is below `usage_floor` / K. Weights as in the formula above.

    split=false removes z_i. quantise=false removes everything but the actor, which is MADT with task features.
    """

    learning_rate: Positive
    weight_decay: NotNegative
    max_grad_norm: Positive
    codes: Width
    specific_width: Width
    reconstruction_weight: NotNegative
    kl_weight: NotNegative
    codebook_weight: NotNegative
    commitment_weight: NotNegative
    usage_decay: Share
    usage_floor: NotNegative
    quantise: bool
    split: bool
    network: m3.Config


def make_actor(network: m3.Config, dims: Dims, latents: bool) -> causal.Agent:
    """Returns the actor, with which fine-tuning starts. Its output are logits, or all `Latents`."""
    split = entities.entities_of(dims)
    actor = m3.Actor(network, split, dims.actions, dims.task_features, latents)
    return causal.Agent(actor, entities=split if network.encoder == "entity" else None)


def make(config: Config, dims: Dims) -> Algorithm:
    net, width = make_actor(config.network, dims, latents=True), config.network.embed_dim
    own_width = config.specific_width if config.split else 0
    specific = m3.Specific(own_width)
    seen_width = dims.obs - (dims.task_features[1] - dims.task_features[0])
    decoder = entities.Mlp(seen_width + dims.actions)
    tx = adamw(config.learning_rate, config.max_grad_norm, config.weight_decay, b2=0.95, spare=("codebook",))

    def run(module, params, name, *args) -> Any:
        return module.apply({"params": params[name]}, *args)

    def decode(params, z_q, z_i):
        out = run(decoder, params, "decoder", jnp.concatenate([z_q, z_i], axis=-1))
        return out[..., :seen_width], out[..., seen_width:]

    def errors(params, z_q, z_i, batch: Batch, valid):
        """Returns (squared error of the observation, -log p of the last action, whether there is one), [B, T, N]."""
        view, last = decode(params, z_q, z_i)
        target = m3.without(batch.obs, dims.task_features)
        counts = masked.varies(target, valid, batch.task_id, dims.tasks)[batch.task_id][:, None, None]
        wrong = (counts * (view - target) ** 2).sum(-1) / jnp.maximum(counts.sum(-1), 1)
        # Legal actions of the step before the window are unknown: its action is an input, and not reconstructed.
        before = jnp.concatenate([batch.action_mask[:, :1], batch.action_mask[:, :-1]], axis=1)
        done = entities.last_actions(batch._replace(last_action=None))
        nll = -masked.take(masked.log_softmax(last, before), jnp.maximum(done, 0))
        return wrong, nll, done >= 0

    def loss(params, target, batch: Batch, key):
        said = net.window(params["actor"], batch)
        nll, metrics = cloning(said.logits, batch, dims)
        metrics = {"loss": nll, **metrics}
        if not config.quantise:
            return nll, metrics
        valid = batch.agent_mask & batch.time_mask[..., None]
        share = masked.task_weights(valid, batch.task_id, dims.tasks)
        weighed = lambda x: (share * x).sum()
        index = vq.nearest(said.shared, params["codebook"])
        code = params["codebook"][index]
        z_q = vq.straight_through(said.shared, code)
        towards, commitment = map(weighed, vq.embedding_losses(said.shared, code))
        used = vq.usage(index, share, config.codes)
        z_i, kl = jnp.zeros((*valid.shape, own_width)), 0.0
        if config.split:
            mean, log_variance = run(specific, params, "specific", said.z)
            noise = skills.slot_noise(key, batch.agent_mask, own_width, jax.random.normal)
            z_i = mean + jnp.exp(0.5 * log_variance) * noise
            kl = weighed(skills.kl_to_standard_normal(mean, log_variance))
        wrong, last_nll, told = errors(params, z_q, z_i, batch, valid)
        share_told = masked.task_weights(valid & told, batch.task_id, dims.tasks)
        wrong, last_nll = weighed(wrong), (share_told * last_nll).sum()
        total = (
            nll
            + config.reconstruction_weight * (wrong + last_nll)
            + config.kl_weight * kl
            + config.codebook_weight * towards
            + config.commitment_weight * commitment
        )
        metrics |= {
            "objective": total,
            "reconstruction": wrong,
            "last_action_nll": last_nll,
            "code_distance": commitment,
            "perplexity": vq.perplexity(used),
        }
        if config.split:
            alone = weighed(errors(params, z_q, jnp.zeros_like(z_i), batch, valid)[0])
            metrics |= {"kl": kl, "reconstruction_without_own": alone}
        return total, {**metrics, "codes": (used, said.shared, share)}

    step = gradient_step("m3", loss, tx)

    def update(learner: Learner, batch: Batch, key: jax.Array):
        key_loss, key_codes = jax.random.split(key)
        learner, metrics = step(learner, batch, key_loss)
        metrics = dict(metrics)
        if config.quantise:  # Code statistics are not logged.
            used, z, share = metrics.pop("m3/codes")
            usage = config.usage_decay * learner.opt["usage"] + (1 - config.usage_decay) * used
            codes, usage = vq.restart_dead(
                key_codes, learner.params["codebook"], usage, z.reshape(-1, width), share.ravel(),
                config.usage_floor,
            )  # fmt: skip
            params = {**learner.params, "codebook": codes}
            learner = learner._replace(params=params, opt={**learner.opt, "usage": usage})
        return learner, metrics

    def init(key: jax.Array, batch: Batch):
        key_actor, key_codes, key_specific, key_decoder = jax.random.split(key, 4)
        params: dict[str, Any] = {"actor": net.init(key_actor, batch)}
        if not config.quantise:
            return init_learner(params, {"m3": tx}, target=False)
        empty = lambda features: jnp.zeros((*batch.action.shape, features))
        params["decoder"] = decoder.init(key_decoder, empty(width + own_width))["params"]
        params["codebook"] = jax.random.normal(key_codes, (config.codes, width))
        if config.split:
            params["specific"] = specific.init(key_specific, empty(width))["params"]
        learner = init_learner(params, {"m3": tx}, target=False)
        usage = jnp.full(config.codes, 1.0 / config.codes, jnp.float32)
        return learner._replace(opt={**learner.opt, "usage": usage})

    act = policy_act(make_actor(config.network, dims, latents=False))
    return Algorithm(init, (Phase("train", 1.0, update),), act, net.init_carry)


SPEC = Spec(Config=Config, make=make, kind="offline", title="M3", task_features=True, decentralised=True)
