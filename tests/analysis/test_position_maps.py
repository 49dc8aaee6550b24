"""Similarities of positions and components of filters, against their definitions; what has none is refused."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.analysis.positions import in_space, in_time, of_tokens, patch_filters, similarity
from vit_jax.errors import UserError
from vit_jax.models.positions import resample, sincos2d
from vit_jax.plots.positions import plot_filters, plot_grid, plot_sequence

RNG = np.random.default_rng(0)


def model(**fields):
    return types.SimpleNamespace(**fields)


def test_similarity_is_the_cosine():
    positions = RNG.standard_normal((2, 3, 5))
    positions[1, 2] = 0
    found = similarity(positions)
    assert found.shape == (2, 3, 2, 3)
    a, b = positions[0, 1], positions[1, 0]
    assert found[0, 1, 1, 0] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert found[0, 1, 0, 1] == pytest.approx(1)
    assert not found[1, 2].any()
    np.testing.assert_allclose(found, found.transpose(2, 3, 0, 1))


def test_stored_and_resampled_positions_in_space():
    stored = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    learned = model(pos_embed="learned")
    np.testing.assert_array_equal(in_space(learned, {"pos_embed": stored}), stored)
    np.testing.assert_array_equal(
        in_space(learned, {"pos_embed": stored}, (4, 5)), resample(jnp.asarray(stored), (4, 5))
    )
    fixed = model(pos_embed="sincos2d", grid=(2, 3), hidden_dim=8)
    np.testing.assert_array_equal(in_space(fixed, {}), sincos2d((2, 3), 8))
    assert in_space(fixed, {}, (4, 4)).shape == (4, 4, 8)
    x, y = stored[0, :, :4], stored[:, 0, :4]
    found = in_space(model(pos_embed="learned2d"), {"pos_embed_x": x, "pos_embed_y": y})
    np.testing.assert_array_equal(found[1, 2], np.concatenate([x[2], y[1]]))
    with pytest.raises(UserError, match="pos_embed='none' has no positions of patches"):
        in_space(model(pos_embed="none"), {})


def test_positions_in_time_and_of_tokens():
    stored = RNG.standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(in_time({"time_embed": stored}), stored)
    np.testing.assert_array_equal(in_time({"time_embed": stored}, 8), stored.repeat(2, axis=0))
    with pytest.raises(UserError, match="no positions in time"):
        in_time({})
    found = of_tokens(model(pos_embed="sinusoidal", hidden_dim=4), {}, 3)
    np.testing.assert_allclose(found[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], atol=1e-6)
    # the similarity of sinusoids depends on the distance alone: mean cos(distance * w) over the wavelengths
    close = similarity(of_tokens(model(pos_embed="sinusoidal", hidden_dim=8), {}, 9))
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    for distance in range(9):
        np.testing.assert_allclose(np.diagonal(close, distance), np.cos(distance * frequencies).mean(), atol=1e-6)
    learned = model(pos_embed="learned")
    np.testing.assert_array_equal(of_tokens(learned, {"source_pos_embed": {"embedding": stored}}, 3), stored[:3])
    with pytest.raises(UserError, match="positions for 4 tokens, fewer than 5"):
        of_tokens(learned, {"source_pos_embed": {"embedding": stored}}, 5)
    with pytest.raises(UserError, match="no positions of tokens"):
        of_tokens(learned, {})


def test_filters_are_principal_components():
    kernel = RNG.standard_normal((4, 4, 3, 40))
    filters, shares = patch_filters({"patch_embed": {"kernel": kernel}}, 5)
    assert filters.shape == (5, 4, 4, 3)
    covariance = np.cov(kernel.reshape(48, 40))
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(shares, values[::-1][:5] / values.sum(), rtol=1e-9)
    for found, expected in zip(filters.reshape(5, -1), vectors.T[::-1], strict=False):
        assert abs(found @ expected) == pytest.approx(1)
        assert found[np.abs(found).argmax()] > 0
    assert len(patch_filters({"patch_embed": {"kernel": kernel[:1, :1, :, :2]}})[0]) == 2
    with pytest.raises(UserError, match="no patch embedding"):
        patch_filters({"resnet": {}})


def test_figures_are_written_at_the_width_of_a_column(tmp_path):
    plot_grid(tmp_path / "grid.png", similarity(RNG.standard_normal((3, 4, 5))))
    plot_sequence(tmp_path / "time.png", similarity(RNG.standard_normal((4, 5))), "frame")
    plot_filters(tmp_path / "rgb.png", RNG.standard_normal((9, 4, 4, 3)), np.full(9, 1 / 9))
    plot_filters(tmp_path / "grey.svg", RNG.standard_normal((2, 4, 4, 1)), np.full(2, 1 / 2))
    for name in ("grid", "time", "rgb"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width == 990
            assert len(np.unique(np.asarray(image))) > 20
