"""Attention distance, from loops over pairs of patches."""

import functools
import math

import jax
import numpy as np
import pytest

from tests.analysis.attention.cases import computed, made, translator
from vit_jax.analysis import attention_distance

PATCH, GRID, FRAMES = 4, (2, 3), 3


@functools.cache
def distances(name, renormalise=True):
    model, params, inputs = made(name)
    compute = jax.jit(lambda params, inputs: attention_distance(model, params, inputs, renormalise=renormalise))
    return jax.tree.map(np.asarray, compute(params, inputs))


def mean_distance(weights, places, prefix=0, renormalise=True):
    """Returns the distance of one head, from its weights `(tokens, tokens)` and the places of its patches."""
    weights, by_query = weights[prefix:, prefix:], []
    for i, here in enumerate(places):
        weighted = sum(weights[i, j] * math.dist(here, there) for j, there in enumerate(places))
        by_query.append(weighted / (sum(weights[i, : len(places)]) if renormalise else 1))
    return np.mean(by_query)


PIXELS = [(PATCH * row, PATCH * column) for row in range(GRID[0]) for column in range(GRID[1])]


@pytest.mark.parametrize(
    ("name", "renormalise"), [("vit", True), ("vit", False), pytest.param("gap", True, marks=pytest.mark.slow)]
)
def test_distances_of_an_image_model(name, renormalise):
    found = distances(name, renormalise)
    assert list(found) == ["attention/pixels"]
    weights = computed(name)["weights"]["attention"]
    for layer, example, head in np.ndindex(2, 2, 2):
        expected = mean_distance(weights[layer, example, head], PIXELS, 1, renormalise)
        np.testing.assert_allclose(found["attention/pixels"][example, layer, head], expected, rtol=1e-5)


@pytest.mark.slow
def test_distances_of_words_are_within_their_patch():
    found, weights = distances("tnt"), computed("tnt")["weights"]
    assert sorted(found) == ["inner/pixels", "outer/pixels"]
    words = [(2 * row, 2 * column) for row in range(2) for column in range(2)]  # 4 words in 4 x 4 pixels
    expected = np.mean([mean_distance(weights["inner"][1, 0, patch, 1], words) for patch in range(6)])
    np.testing.assert_allclose(found["inner/pixels"][0, 1, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(
        found["outer/pixels"][0, 1, 0], mean_distance(weights["outer"][1, 0, 0], PIXELS, 1), rtol=1e-5
    )


def test_distances_of_divided_attention_are_in_frames_and_in_pixels():
    found, weights = distances("divided_space_time"), computed("divided_space_time")["weights"]
    assert sorted(found) == ["spatial/pixels", "temporal/frames"]
    times = [(frame,) for frame in range(FRAMES)]
    expected = np.mean([mean_distance(weights["temporal"][0, 1, patch, 1], times) for patch in range(6)])
    np.testing.assert_allclose(found["temporal/frames"][1, 0, 1], expected, rtol=1e-5)
    expected = np.mean([mean_distance(weights["spatial"][1, 0, frame, 0], PIXELS, 1) for frame in range(FRAMES)])
    np.testing.assert_allclose(found["spatial/pixels"][0, 1, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_distances_over_space_and_time_have_both_units():
    found, weights = distances("sparse_local_global"), computed("sparse_local_global")["weights"]
    assert sorted(found) == ["global/frames", "global/pixels", "local/frames", "local/pixels"]
    places = [(frame, *place) for frame in range(FRAMES) for place in PIXELS]
    local = weights["local"][0, 0, 0, 1]
    np.testing.assert_allclose(
        found["local/frames"][0, 0, 1], mean_distance(local, [place[:1] for place in places]), rtol=1e-5
    )
    np.testing.assert_allclose(
        found["local/pixels"][0, 0, 1], mean_distance(local, [place[1:] for place in places]), rtol=1e-5
    )
    # `global`: a sequence for each offset in frame, row and column; padding is left out, the class token is first
    by_query = []
    for sequence, offset in enumerate(np.ndindex(2, 2, 2)):
        own = [
            (frame, row, column)
            for frame in range(offset[0], FRAMES, 2)
            for row in range(offset[1], GRID[0], 2)
            for column in range(offset[2], GRID[1], 2)
        ]
        padded = [(a, b, c) for a in range(2) for b in range(1) for c in range(2)]
        kept = [i for i, (a, b, c) in enumerate(padded) if offset[0] + 2 * a < FRAMES and offset[2] + 2 * c < GRID[1]]
        assert len(kept) == len(own)
        matrix = weights["global"][1, 1, sequence, 0, 1:, 1:][np.ix_(kept, kept)]
        for i, here in enumerate(own):
            by_query.append(
                sum(matrix[i, j] * abs(here[0] - there[0]) for j, there in enumerate(own)) / matrix[i].sum()
            )
    np.testing.assert_allclose(found["global/frames"][1, 1, 0], np.mean(by_query), rtol=1e-5)


def test_the_patches_of_a_hybrid_are_as_far_apart_as_the_pixels_that_they_cover():
    from vit_jax import build_model
    from vit_jax.analysis.attention.distance import _places

    model = build_model("vit:R26+S/32", image_size=(64, 96), num_layers=1)
    places, _ = _places(model, "attention")
    assert places[0, -1].tolist() == [0, 32, 64]


def test_sentences_have_no_pixels():

    model, params, sentences = translator()
    with pytest.raises(ValueError, match="attention distance is of images and clips"):
        attention_distance(model, params, sentences[0])
