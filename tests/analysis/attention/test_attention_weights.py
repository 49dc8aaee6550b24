"""Attention weights and maps: the model computed from them again, the methods in NumPy, and a planted patch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.analysis.attention.cases import (
    MODELS,
    PATCHES,
    PLAIN,
    cases,
    computed,
    logits_from,
    made,
    translator,
)  # fmt: skip
from vit_jax.analysis import attention, attention_map, attention_matrix, received_attention, sentence_attention
from vit_jax.analysis.attention.weights import groups, mix


@pytest.mark.parametrize("name", cases(*PLAIN))
def test_the_weights_are_those_with_which_the_model_computes(name):
    model, params, _ = made(name)
    found = computed(name)
    again = jax.jit(functools.partial(logits_from, model))(params, found["embedded"], found["between"])
    np.testing.assert_allclose(again, found["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", cases("vit", "parallel", "tnt"))
def test_kernels_and_scanned_layers_have_the_same_weights_and_maps(name):
    model, params, inputs = made(name)

    def compute(model, params, inputs):
        maps = attention_map(model, params, inputs, method="gradient")
        return (
            model.apply({"params": params}, inputs, train=False),
            attention(model, params, inputs, layers=(-1,)),
            maps,
        )

    for fields in ({"attention_kernel": "xla", "scan_layers": True}, {"attention_kernel": "reference"}):
        other = functools.partial(compute, model.clone(**fields))
        logits, weights, maps = jax.jit(other)(params, inputs)
        np.testing.assert_allclose(logits, computed(name)["logits"], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(maps, computed(name)["map"]["gradient"], atol=1e-5)
        for kind, values in weights.items():
            np.testing.assert_allclose(values[0], computed(name)["weights"][kind][1], atol=1e-6)


@pytest.mark.parametrize("name", cases(*MODELS))
def test_rows_sum_to_one_and_a_map_is_what_the_output_reads(name):
    model, _, inputs = made(name)
    found = computed(name)
    for values in found["weights"].values():
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    for method, matrix in found["matrix"].items():
        if method != "gradient":
            np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-5)
        count = matrix.shape[-1]
        rows = {"gap": np.arange(1, count), "distilled": [0, 1], "space_only": np.arange(0, count, 1 + PATCHES)}
        read = (matrix - (np.eye(count) if method == "gradient" else 0))[:, rows.get(name, [0])].mean(1)
        if name == "space_only":
            expected = read.reshape(2, 3, 1 + PATCHES)[:, :, 1:]
        else:
            expected = read[:, model.num_prefix_tokens :]
        assert found["map"][method].shape == (2, *inputs.shape[1:-3], 2, 3)
        np.testing.assert_allclose(found["map"][method].reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)


def divided_matrices(weights):
    """Composes temporal `(patches, frames, frames)` and spatial `(frames, tokens, tokens)` weights."""
    patches, frames = weights["temporal"].shape[:2]
    temporal, spatial = (np.zeros((1 + frames * patches,) * 2) for _ in range(2))
    temporal[0, 0] = 1
    for frame in range(frames):
        for patch in range(patches):
            here = 1 + frame * patches + patch
            for other in range(frames):
                temporal[here, 1 + other * patches + patch] = weights["temporal"][patch, frame, other]
            spatial[here, 0] = weights["spatial"][frame, 1 + patch, 0]
            spatial[0, here] = weights["spatial"][frame, 0, 1 + patch] / frames
            for other in range(patches):
                spatial[here, 1 + frame * patches + other] = weights["spatial"][frame, 1 + patch, 1 + other]
        spatial[0, 0] += weights["spatial"][frame, 0, 0] / frames
    return temporal, spatial


@pytest.mark.parametrize("name", ["vit", "divided_space_time"])
def test_matrices_are_those_of_the_formulas(name):
    """For the first example: Abnar and Zuidema's product over the layers, and the weights of the last layer."""
    found = computed(name)
    weights = {kind: values[:, 0].mean(-3, dtype=np.float64) for kind, values in found["weights"].items()}
    rollout = identity = np.eye(found["embedded"].shape[1])
    for layer in range(2):
        own, last = {kind: values[layer] for kind, values in weights.items()}, identity
        for step in [own["attention"]] if name == "vit" else divided_matrices(own):
            rollout = (step + identity) / 2 @ rollout
            last = step @ last
    np.testing.assert_allclose(found["matrix"]["rollout"][0], rollout, atol=1e-6)
    np.testing.assert_allclose(found["matrix"]["weights"][0], last, atol=1e-6)


@pytest.mark.parametrize("name", cases("vit", "parallel"))
def test_gradients_are_those_of_the_logit_by_the_weights(name):
    """R = (I + G) R, with gradients of another way to compute the logits.

    There the weights do not depend on the tokens, so the gradients are those of the model only in its last layer, which
    is why it has one. `tests/parity/test_attention_maps.py` has gradients through several layers.
    """
    model, params, inputs = made(name, num_layers=1)
    found, kinds = computed(name, num_layers=1), list(itertools.chain(*groups(model)))
    identity = jnp.broadcast_to(jnp.eye(found["embedded"].shape[1]), found["matrix"]["weights"].shape)

    def logit(weights, classes):
        def between(kind):
            heads = [[mix(model, kind, w[..., head, :, :], identity) for head in range(2)] for w in weights[kind]]
            return jnp.stack([jnp.stack(each) for each in heads])

        logits = logits_from(model, params, found["embedded"], {kind: between(kind) for kind in kinds})
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    @jax.jit
    def expected(weights, classes):
        gradients, tokens = jax.grad(logit)(weights, classes), identity
        shares = {kind: jnp.maximum(weights[kind] * gradients[kind], 0).mean(-3) for kind in kinds}
        for group in groups(model):
            tokens = tokens + sum(mix(model, kind, shares[kind][0], tokens, are_shares=True) for kind in group)
        return tokens

    best = found["logits"].argmax(-1)
    np.testing.assert_allclose(found["matrix"]["gradient"], expected(found["weights"], best), atol=1e-5, rtol=1e-4)
    other = (best + 1) % 5
    again = jax.jit(functools.partial(attention_matrix, model, method="gradient"))(params, inputs, classes=other)
    np.testing.assert_allclose(again, expected(found["weights"], other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", cases("vit", "joint_space_time", "axial"))
def test_a_planted_patch_is_found(name):
    """Keys are the brightness of a patch, queries a constant: every attention looks at the bright patch."""
    model, params, inputs = made(name, pos_embed="none")
    params = jax.tree.map(np.zeros_like, params)
    params["patch_embed"]["kernel"][..., 0] = 1
    params["patch_embed"]["bias"][1] = 1
    params["cls_token"][2] = 1
    for block in params["encoder"].values():
        for part, leaves in block.items():
            if part.endswith("norm"):
                leaves["scale"][:] = 1
            if part.endswith("attention"):
                leaves["query"]["bias"][:, 0] = 30
                leaves["key"]["kernel"][0, :, 0] = 1
    place = (1, 1, 2) if inputs.ndim == 5 else (1, 2)  # of the bright patch: in frame 1, row 1, column 2
    bright = np.zeros_like(inputs)
    bright[(slice(None), *place[:-2], slice(4, 8), slice(8, 12))] = 1
    compute = jax.jit(functools.partial(attention_map, model), static_argnames="method")
    for method in ("weights", "rollout"):
        values = np.asarray(compute(params, bright, method=method))[0]
        assert np.unravel_index(values.argmax(), values.shape) == place
        assert values[place] > 2 * np.sort(values.ravel())[-2]


def received(name, kind, **options):
    model, params, inputs = made(name)
    compute = jax.jit(lambda params, inputs: received_attention(model, params, inputs, kind, **options))
    return np.asarray(compute(params, inputs)), computed(name)["weights"][kind]


@pytest.mark.slow
def test_words_receive_attention_within_their_patch():
    found, weights = received("tnt", "inner", layer=0, head=1)
    for row, column, word_row, word_column in np.ndindex(2, 3, 2, 2):
        expected = weights[0, 1, 3 * row + column, 1, :, 2 * word_row + word_column].mean()
        np.testing.assert_allclose(found[1, 2 * row + word_row, 2 * column + word_column], expected, atol=1e-6)


def test_temporal_attention_is_received_from_all_frames_at_a_place():
    found, weights = received("divided_space_time", "temporal")
    np.testing.assert_allclose(found.reshape(2, 3, 6), weights[1].mean((2, 3)).swapaxes(1, 2), atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("vit", "attention"), ("divided_space_time", "spatial")])
def test_class_tokens_neither_give_nor_receive(name, kind):
    found, weights = received(name, kind)
    expected = weights[1].mean(-3)[..., 1:, 1:].mean(-2)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.slow
def test_padding_neither_gives_nor_receives():
    """Sequences of `global` are patches an even distance apart; with odd sizes, some are padded."""
    found, weights = received("sparse_local_global", "global")
    mean = weights[1].mean(-3)
    first = mean[:, 0, 1:, 1:]  # frames 0 and 2, row 0, columns 0 and 2: nothing is padded
    np.testing.assert_allclose(found[:, ::2, 0, ::2].reshape(2, 4), first.mean(-2), atol=1e-6)
    last = mean[:, 7]  # frame 1, row 1, column 1, then padding
    np.testing.assert_allclose(found[:, 1, 1, 1], last[:, 1, 1], atol=1e-6)


def test_a_query_has_its_own_map():
    model, params, inputs = made("divided_space_time")
    compute = jax.jit(functools.partial(attention_map, model, query=(2, 1, 0)))
    row = computed("divided_space_time")["matrix"]["rollout"][:, 1 + 2 * PATCHES + 3, 1:]
    np.testing.assert_allclose(compute(params, inputs).reshape(2, -1), row, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit", {"layer": 2}, "layer=2: the model has layers 0 to 1, or -2 to -1"),
        ("vit", {"method": "weights", "head": 2}, "head=2: the model has heads 0 to 1"),
        ("vit", {"head": 0}, "head=0 applies to method=weights; rollout averages the heads"),
        ("vit", {"method": "lrp"}, "method=lrp: must be one of weights, rollout, gradient"),
        ("vit", {"classes": np.zeros(2, int)}, "class applies to method=gradient; rollout does not depend on it"),
        ("vit", {"query": (2, 0)}, "query=2,0: the patches are a grid of 2 x 3, counted from 0"),
        ("axial", {"query": (0, 0)}, "query=0,0: the patches are a grid of 3 x 2 x 3, counted from 0"),
        ("vit", {"query": (0, 0), "method": "gradient"}, "query does not apply to method=gradient"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, arguments, message):
    model, params, inputs = made(name)
    with pytest.raises(ValueError, match=message):
        attention_map(model, params, inputs, **arguments)


def test_gradients_need_classes():
    model, params, inputs = made("vit")
    with pytest.raises(ValueError, match="method=gradient needs a model with classes"):
        attention_map(model.clone(num_classes=None), params, inputs, method="gradient")


# Sentences


def test_rollout_of_a_translation_is_that_of_the_formulas():
    model, params, sentences = translator()

    @jax.jit
    def compute(params, *sentences):
        found = attention(model, params, *sentences)
        return sentence_attention(model, params, *sentences, method="rollout"), found

    found, weights = jax.tree.map(np.asarray, compute(params, *sentences))
    weights = {kind: values[:, 0].mean(-3) for kind, values in weights.items()}
    encoder = np.eye(5)
    for layer in range(2):
        encoder = (np.eye(5) + weights["encoder"][layer]) / 2 @ encoder
    state = np.concatenate([np.zeros((4, 5)), np.eye(4)], axis=1)  # what each target token has read: source, target
    for layer in range(2):
        state = (state + weights["decoder"][layer] @ state) / 2
        state = (state + weights["cross"][layer] @ np.concatenate([encoder, np.zeros((5, 4))], axis=1)) / 2
    np.testing.assert_allclose(found["encoder"][0], encoder, atol=1e-6)
    np.testing.assert_allclose(found["cross"][0], state[:, :5], atol=1e-6)
    np.testing.assert_allclose(found["decoder"][0], state[:, 5:], atol=1e-6)
    np.testing.assert_allclose(found["cross"].sum(-1) + found["decoder"].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "architecture",
    ["encoder_decoder", *(pytest.param(half, marks=pytest.mark.slow) for half in ("encoder", "decoder"))],
)
def test_weights_between_tokens_are_those_of_a_layer_and_a_head(architecture):
    model, params, sentences = translator(architecture)
    kinds = ["encoder", "decoder", "cross"] if architecture == "encoder_decoder" else [architecture]

    @jax.jit
    def compute(params, *sentences):
        options = ({}, {"head": 1}, {"method": "rollout"})
        found = [sentence_attention(model, params, *sentences, layer=0, **each) for each in options]
        return attention(model, params, *sentences), *found

    everything, mean, head, rollout = jax.tree.map(np.asarray, compute(params, *sentences))
    for found in (everything, mean, head, rollout):
        assert sorted(found) == sorted(kinds)
    for kind in kinds:
        np.testing.assert_allclose(mean[kind], everything[kind][0].mean(-3), atol=1e-6)
        np.testing.assert_allclose(head[kind], everything[kind][0][:, 1], atol=1e-6)
        np.testing.assert_allclose(everything[kind].sum(-1), 1, atol=1e-5)
    if architecture != "encoder":
        assert not np.triu(rollout["decoder"][0], 1).any()


def test_sentences_and_pictures_are_not_confused():
    model, params, sentences = translator()
    with pytest.raises(ValueError, match="attention maps are of images and clips; use "):
        attention_map(model, params, sentences[0])
    with pytest.raises(ValueError, match="method=gradient does not apply to sentences, which have no class"):
        sentence_attention(model, params, *sentences, method="gradient")
    model, params, images = made("vit")
    with pytest.raises(ValueError, match="ViT does not take sentences; use "):
        sentence_attention(model, params, images)
