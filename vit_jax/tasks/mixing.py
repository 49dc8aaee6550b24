"""What mixup and CutMix mix: pairs of neighbouring examples, and random boxes."""

import jax
import jax.numpy as jnp


def partners(x: jax.Array, group: int) -> jax.Array:
    """Exchanges the two halves of every group of consecutive rows."""
    return x.reshape(-1, 2, group // 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def random_box(rng: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """Returns a mask `(height, width)` of a box that covers a share `area` of the image.

    Its centre is uniformly distributed, and it is clipped at the border.
    """
    size = jnp.asarray((height, width))
    centre = jax.random.uniform(rng, (2,)) * size
    half = 0.5 * jnp.sqrt(area) * size
    low, high = jnp.round(centre - half), jnp.round(centre + half)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])
