"""The mixture of encoders: who is heeded, by what, and who learns from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.networks.care import Mixture
from mtmarl.networks.entities import Mlp

OBS, TOLD = 7, (4, 6)
VIEW = jax.random.normal(jax.random.key(0), (3, 2, OBS))


def made(experts, told=TOLD):
    module = Mixture(experts, 8, told)
    return module, module.init(jax.random.key(1), VIEW)


def other_task(view):
    return view.at[..., TOLD[0] : TOLD[1]].add(1.0)


def test_attention_adds_up_to_one_and_follows_the_task():
    module, variables = made(4)
    attend = lambda context: module.apply(variables, context, method="attention")
    context = jax.random.normal(jax.random.key(2), (5, 8))
    weights = attend(context)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    assert weights.shape == (5, 4) and not np.allclose(weights[0], weights[1])


def test_one_expert_is_a_plain_encoder_beside_the_task():
    module, variables = made(1)
    out = module.apply(variables, VIEW)
    own = jax.tree.map(lambda x: x[0], variables["params"]["encoders"])
    seen = jnp.concatenate([VIEW[..., : TOLD[0]], VIEW[..., TOLD[1] :]], axis=-1)
    np.testing.assert_allclose(out[..., :8], Mlp(8, 8).apply({"params": own}, seen), atol=1e-6)
    task = jax.nn.relu(Mlp(8, 100).apply({"params": variables["params"]["task"]}, VIEW[..., slice(*TOLD)]))
    np.testing.assert_allclose(out[..., 8:], task, atol=1e-6)


def test_another_task_changes_what_is_said_of_the_same_observation():
    module, variables = made(4)
    mixed = lambda view: module.apply(variables, view)[..., :8]
    assert not np.allclose(mixed(VIEW), mixed(other_task(VIEW)), atol=1e-4)
    module, variables = made(1)
    np.testing.assert_array_equal(mixed(VIEW), mixed(other_task(VIEW)), "one expert is not chosen among")


def test_the_encoding_of_the_task_does_not_learn_through_attention():
    module, variables = made(4)

    def loss(params, part):
        return (module.apply({"params": params}, VIEW)[..., part] ** 2).sum()

    grads = jax.grad(loss)(variables["params"], slice(0, 8))
    size = lambda name, of: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(of[name]))
    assert size("task", grads) == 0 < min(size("gate", grads), size("encoders", grads))
    assert size("task", jax.grad(loss)(variables["params"], slice(8, 16))) > 0


@pytest.mark.parametrize("experts", [1, 3])
def test_untold_all_experts_count_alike(experts):
    module, variables = made(experts, (0, 0))
    assert set(variables["params"]) == {"encoders"}
    own = lambda j: jax.tree.map(lambda x: x[j], variables["params"]["encoders"])
    each = [Mlp(8, 8).apply({"params": own(j)}, VIEW) for j in range(experts)]
    np.testing.assert_allclose(module.apply(variables, VIEW), np.mean(each, axis=0), atol=1e-6)
