"""Attention weights, rollout and gradients of a ViT against timm, read by hooks: `pytest -m parity`."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.peers import timm_model
from vit_jax import from_pretrained
from vit_jax.analysis import attention, attention_distance, attention_matrix

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Weights of timm's model and their gradients, per layer `(batch, heads, tokens, tokens)`; ours; and images."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = timm_model("vit_tiny_patch16_224", img_size=(48, 64), num_classes=5).module
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = []

    def keep(module, given, output):
        output.retain_grad()
        weights.append(output)

    for block in peer.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(keep)
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save(peer.state_dict(), path)
    loaded = from_pretrained(path, "vit:Ti/16", image_size=(48, 64), num_classes=5, gelu="exact", pool="cls")
    images = np.random.default_rng(0).standard_normal((2, 48, 64, 3)).astype(np.float32)
    logits = peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    logits.max(dim=1).values.sum().backward()
    found = [(each.detach().numpy(), each.grad.numpy()) for each in weights]
    return found, loaded.model, loaded.params, jnp.asarray(images)


def test_weights(pair):
    peer, model, params, images = pair
    ours = np.asarray(attention(model, params, images)["attention"])
    np.testing.assert_allclose(ours, [weights for weights, _ in peer], atol=1e-5)


def test_rollout(pair):
    peer, model, params, images = pair
    rollout = np.eye(13)
    for weights, _ in peer:
        rollout = (weights.mean(1) + np.eye(13)) / 2 @ rollout
    np.testing.assert_allclose(attention_matrix(model, params, images), rollout, atol=1e-5)


def test_weights_times_gradients(pair):
    peer, model, params, images = pair
    relevance = np.eye(13)
    for weights, gradients in peer:
        relevance = relevance + np.maximum(weights * gradients, 0).mean(1) @ relevance
    ours = attention_matrix(model, params, images, method="gradient")
    np.testing.assert_allclose(ours, relevance, atol=1e-4, rtol=1e-4)


def test_distance(pair):
    """As in the code by S. Kornblith, without a denominator."""
    peer, model, params, images = pair
    places = np.array([(16 * row, 16 * column) for row in range(3) for column in range(4)])
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    expected = np.stack([(weights[..., 1:, 1:] * apart).sum(-1).mean(-1) for weights, _ in peer], axis=1)
    ours = attention_distance(model, params, images, renormalise=False)["attention/pixels"]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
