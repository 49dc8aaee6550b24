"""Position embeddings against formulas; their resampling against torch, SciPy and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from vit_jax.models.positions import CLASS_POSITION, METHODS, relative_positions, resample, sincos2d, token_positions


@pytest.mark.parametrize(("grid", "hidden_dim"), [((3, 5), 16), ((14, 14), 192), ((1, 2), 4)])
def test_sincos2d(grid, hidden_dim):
    table = jax.jit(sincos2d, static_argnums=(0, 1))(grid, hidden_dim)
    expected = np.empty((*grid, hidden_dim))
    quarter = hidden_dim // 4
    for y in range(grid[0]):
        for x in range(grid[1]):
            for i in range(quarter):
                frequency = 10_000.0 ** -(i / max(quarter - 1, 1))
                waves = np.sin(x * frequency), np.cos(x * frequency), np.sin(y * frequency), np.cos(y * frequency)
                expected[y, x, i::quarter] = waves
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_sincos2d_needs_four_equal_parts():
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sincos2d((2, 2), 6)


def tables(function, **values):
    """Calls `function(param)`, where `param` looks values up; returns its result and the parameters it made."""
    made = {}

    def param(name, init, shape, dtype):
        made[name] = init(jax.random.key(len(made)), shape, dtype)
        return values.get(name, made[name])

    return np.asarray(function(param)), made


@pytest.mark.parametrize("has_class_token", [True, False])
@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("learned", {"pos_embed": (2, 3, 8)}),
        ("learned2d", {"pos_embed_x": (3, 4), "pos_embed_y": (2, 4)}),
        ("sincos2d", {}),
    ],
)
def test_token_positions_are_in_raster_order_after_the_class_token(kind, shapes, has_class_token):
    prefix = [CLASS_POSITION] * has_class_token
    positions, made = tables(lambda param: token_positions(param, kind, (2, 3), 8, prefix))
    first = made.pop("cls_pos", np.zeros(8))
    assert {name: value.shape for name, value in made.items()} == shapes
    assert positions.shape == (6 + has_class_token, 8)
    if has_class_token:
        np.testing.assert_array_equal(positions[0], first)
        assert first.any() == (kind != "sincos2d")
    grid = positions[int(has_class_token) :].reshape(2, 3, 8)
    for y in range(2):
        for x in range(3):
            if kind == "learned":
                expected = made["pos_embed"][y, x]
            elif kind == "learned2d":
                expected = np.concatenate([made["pos_embed_x"][x], made["pos_embed_y"][y]])
            else:
                expected = sincos2d((2, 3), 8)[y, x]
            np.testing.assert_array_equal(grid[y, x], expected)


def test_learned2d_needs_two_equal_parts():
    with pytest.raises(ValueError, match="an even hidden_dim, not 5"):
        tables(lambda param: token_positions(param, "learned2d", (2, 2), 5, [CLASS_POSITION]))


def test_relative_positions_depend_on_the_offset_alone():
    table = learned(9, 3)
    relative, made = tables(lambda param: relative_positions(param, 5, 3), relative_embed=jnp.asarray(table))
    assert made["relative_embed"].shape == table.shape
    for query in range(5):
        for key in range(5):
            np.testing.assert_array_equal(relative[query, key], table[query - key + 4])


@pytest.mark.parametrize(
    "function",
    [
        lambda param: token_positions(param, "learned2d", (64, 64), 128, [CLASS_POSITION]),
        lambda param: relative_positions(param, 32, 65),
    ],
)
def test_learned_positions_start_small(function):
    for value in tables(function)[1].values():
        np.testing.assert_allclose(np.std(value), 0.02, rtol=0.05 if value.ndim > 1 else 0.3)


def learned(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("grid", [(24, 24), (7, 7), (20, 9), (14, 21), (1, 1)])
def test_resample_is_antialiased_bicubic(grid):
    positions = learned(14, 14, 3)
    size = (grid[1], grid[0])
    channels = [
        np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in positions.T.swapaxes(1, 2)
    ]
    resampled = resample(jnp.asarray(positions), grid)
    np.testing.assert_allclose(resampled, np.stack(channels, axis=-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(24, 24), (7, 7), (20, 9), (14, 21), (1, 1), (1, 15), (5, 14)])
def test_zoom_is_scipys(grid):
    positions = learned(14, 14, 3)
    expected = np.asarray(scipy.ndimage.zoom(positions, (grid[0] / 14, grid[1] / 14, 1), order=1))
    np.testing.assert_allclose(resample(jnp.asarray(positions), grid, "zoom"), expected, rtol=1e-5, atol=1e-5)


def test_zoom_keeps_the_corners_at_every_size():  # SciPy writes zeros there, for 26 from 8 and some others
    positions = jnp.asarray(learned(8, 8, 2))
    resampled = resample(positions, (26, 26), "zoom")
    np.testing.assert_allclose(resampled[::25, ::25], positions[::7, ::7], rtol=1e-5)
    assert not np.asarray(scipy.ndimage.zoom(positions, (26 / 8, 26 / 8, 1), order=1))[25].any()


# torch's interpolate(wave(*grid)[None, None], size, mode="bicubic")[0, 0]
PLAIN = {
    ((3, 5), (4, 7)): [
        [-0.06635, 0.74861, 0.57680, -0.74267, 0.07543, 0.22476, -0.31366],
        [-0.00371, -0.29703, -0.78684, -0.93362, 0.57562, 0.43240, -0.80371],
        [-0.26638, -0.35941, -0.63896, -0.80864, 0.14456, 0.33488, -0.14358],
        [-0.66506, 0.60641, 0.91387, -0.45781, -0.90712, 0.00248, 1.19099],
    ],
    ((7, 6), (3, 4)): [
        [-0.69426, 0.28498, -0.40390, 0.49445],
        [-0.20948, -0.75795, 0.91911, 0.74248],
        [0.81816, -0.56890, 0.72765, -0.21430],
    ],
}


def wave(*grid):
    return np.sin(np.arange(np.prod(grid)) ** 2).reshape(grid).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), PLAIN)
def test_plain_bicubic_is_torchs(old, new):
    resampled = resample(jnp.asarray(wave(*old))[..., None], new, "bicubic_plain")
    np.testing.assert_allclose(resampled[..., 0], PLAIN[old, new], atol=1e-5)


@pytest.mark.parametrize(
    ("old", "taken"),  # from torch's interpolate(torch.arange(old), len(taken), mode="nearest")
    [
        (8, [0, 2, 5]),
        (3, [0, 0, 0, 1, 1, 1, 2, 2]),
        (8, [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]),
        (7, [0, 1, 2, 4, 5]),
        (2, [0] * 42 + [1] * 40),
    ],
)
def test_nearest_is_torchs(old, taken):
    times = jnp.asarray(learned(old, 4))
    np.testing.assert_array_equal(resample(times, (len(taken),), "nearest"), times[np.array(taken)])


@pytest.mark.parity
@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((7, 5), (3, 9)), ((1, 6), (5, 6)), ((16, 9), (5, 4))])
def test_resampling_is_torchs(old, new):
    torch = pytest.importorskip("torch")
    positions = learned(*old, 3)
    for method, options in {
        "bicubic": {"mode": "bicubic", "antialias": True},
        "bicubic_plain": {"mode": "bicubic"},
        "nearest": {"mode": "nearest"},
    }.items():
        channels_first = torch.from_numpy(positions).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(channels_first, new, **options)[0].permute(1, 2, 0)
        resampled = resample(jnp.asarray(positions), new, method)
        np.testing.assert_allclose(resampled, expected, rtol=1e-5, atol=1e-5, err_msg=method)


@pytest.mark.parametrize("method", METHODS)
def test_the_axes_are_resampled_one_by_one(method):
    """So that tables of rows, columns and frames are resampled as a grid of them would be."""
    positions = jnp.asarray(learned(5, 7, 3))
    columns = jnp.stack([resample(row, (4,), method) for row in positions])
    rows = jnp.stack([resample(column, (9,), method) for column in columns.swapaxes(0, 1)], axis=1)
    np.testing.assert_allclose(resample(positions, (9, 4), method), rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_resample_to_the_same_grid_changes_nothing(method):
    positions = jnp.asarray(learned(4, 6, 8))
    assert resample(positions, (4, 6), method) is positions


def test_resample_refuses_what_it_does_not_know():
    positions = jnp.zeros((4, 6, 8))
    with pytest.raises(
        ValueError, match=r"unknown method 'cubic' to resample positions. Use one of bicubic, bicubic_plain"
    ):
        resample(positions, (4, 6), "cubic")
    with pytest.raises(ValueError, match=r"a grid \(4, 6\) cannot be resampled to \(4,\)"):
        resample(positions, (4,))
