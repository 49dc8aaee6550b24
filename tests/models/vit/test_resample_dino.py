"""Resampling positions as the authors of DINO do."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.positions import resample

# torch's interpolate(VALUES[None, None], scale_factor=((rows + 0.1) / 3, (columns + 0.1) / 3), mode="bicubic")[0, 0]
VALUES = (np.arange(9) * 5 % 7).reshape(3, 3).astype(np.float32)
GOLDEN = {
    (4, 5): [
        [-0.56231, 1.90232, 4.85266, 4.20030, 2.76409],
        [-0.05883, 2.80834, 6.18260, 5.16616, 3.28050],
        [1.14622, 2.45148, 4.18085, 4.57711, 4.43539],
        [2.26256, 0.84167, -0.29992, 2.56203, 5.46417],
    ],
    (2, 3): [[0.10241, 5.22739, 3.32898], [1.71624, 2.00539, 4.55226]],
    (6, 1): [[4.47178], [4.97683], [5.94852], [4.54807], [1.41127], [-0.70814]],
}


@pytest.mark.parametrize("grid", GOLDEN)
def test_the_scale_is_a_tenth_of_a_patch_larger(grid):
    resampled = resample(jnp.asarray(VALUES)[..., None], grid, "bicubic_dino")
    np.testing.assert_allclose(resampled[..., 0], GOLDEN[grid], atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("old", "new"),
    [(14, (16, 16)), (14, (7, 28)), (37, (16, 16)), (37, (14, 20)), (16, (37, 37)), (14, (60, 9)), (3, (4, 4))],
)
def test_it_is_torch_s_interpolation_by_dino_s_scale(old, new):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(old).standard_normal((old, old, 8)).astype(np.float32)
    channels_first = torch.from_numpy(positions).permute(2, 0, 1)[None]
    scale = tuple((side + 0.1) / old for side in new)
    expected = torch.nn.functional.interpolate(channels_first, scale_factor=scale, mode="bicubic")
    resampled = resample(jnp.asarray(positions), new, "bicubic_dino")
    np.testing.assert_allclose(resampled, expected[0].permute(1, 2, 0), rtol=1e-5, atol=1e-5)
