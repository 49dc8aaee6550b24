"""Position embeddings and patch filters: what a model has learned about space and time (ViT, Figure 7)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from vit_jax.errors import UserError
from vit_jax.models.positions import resample, sincos2d
from vit_jax.models.transformer import sinusoids


def similarity(embeddings: Float[np.ndarray, "*grid hidden_dim"]) -> Float[np.ndarray, "*grid_twice"]:
    """Returns the cosine similarity of every position with every other (ViT, Figure 7, centre).

        similarity[i, j] = e_i . e_j / (|e_i| |e_j|)

    Args:
      embeddings: On a grid of any rank: rows and columns of patches, frames, or tokens.

    Returns:
      The grid twice: `similarity[row, column]` is the map of the position in this row and column. Positions that are
      zero have a similarity of 0.
    """
    grid = embeddings.shape[:-1]
    flat = np.asarray(embeddings, np.float64).reshape(-1, embeddings.shape[-1])
    unit = flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-300)
    return (unit @ unit.T).reshape(*grid, *grid)


def in_space(
    model: Any, params: PyTree, grid: tuple[int, int] | None = None, method: str = "bicubic"
) -> Float[np.ndarray, "grid_height grid_width hidden_dim"]:
    """Returns the position embeddings of the patches on their grid, as the model adds them.

    Args:
      grid: Rows and columns to resample learned positions to; the default is the model's own.
      method: See `models.positions.resample`.

    Raises:
      UserError: The model has no positions of patches that all layers share.
    """
    if "pos_embed" in params:
        stored = jnp.asarray(params["pos_embed"])
    elif "pos_embed_x" in params:
        x, y = params["pos_embed_x"], params["pos_embed_y"]
        rows, columns = len(y), len(x)
        x, y = np.broadcast_to(x, (rows, *x.shape)), np.broadcast_to(y[:, None], (rows, columns, y.shape[-1]))
        stored = jnp.asarray(np.concatenate([x, y], axis=-1))
    elif getattr(model, "pos_embed", None) == "sincos2d":
        return np.asarray(sincos2d(grid or model.grid, model.hidden_dim))
    else:
        kind = getattr(model, "pos_embed", None)
        raise UserError(f"{type(model).__name__} with pos_embed={kind!r} has no positions of patches to compare")
    return np.asarray(resample(stored, grid or stored.shape[:2], method))


def in_time(
    params: PyTree, frames: int | None = None, method: str = "nearest"
) -> Float[np.ndarray, "frames hidden_dim"]:
    """Returns the positions in time of a TimeSformer.

    Args:
      frames: Number of frames to resample them to; the default is the model's own.
      method: See `models.positions.resample`; the default is the authors'.

    Raises:
      UserError: The model has none.
    """
    if "time_embed" not in params:
        raise UserError("the model has no positions in time: only a TimeSformer with pos_embed='space_time' has")
    stored = jnp.asarray(params["time_embed"])
    return np.asarray(resample(stored, (frames or len(stored),), method))


def of_tokens(model: Any, params: PyTree, length: int = 64) -> Float[np.ndarray, "tokens hidden_dim"]:
    """Returns the positions of the first tokens of a Transformer's source: sinusoids, or learned ones.

    Raises:
      UserError: The model has none, or learned ones for fewer tokens.
    """
    kind = getattr(model, "pos_embed", None)
    if kind == "sinusoidal":
        return np.asarray(sinusoids(jnp.arange(length), model.hidden_dim))
    for name in ("source_pos_embed", "target_pos_embed"):
        if name in params:
            table = np.asarray(params[name]["embedding"])
            if length > len(table):
                raise UserError(f"the model has positions for {len(table)} tokens, fewer than {length}")
            return table[:length]
    raise UserError(f"{type(model).__name__} with pos_embed={kind!r} has no positions of tokens to compare")


def patch_filters(
    params: PyTree, count: int = 28
) -> tuple[Float[np.ndarray, "filters height width channels"], Float[np.ndarray, " filters"]]:
    """Returns the principal components of the patch embedding's filters (ViT, Figure 7, left).

    The filters, one for each channel of `hidden_dim`, are vectors of height * width * channels values. Their principal
    components are the right singular vectors of the matrix of filters minus their mean. The sign of each, which is
    arbitrary, is such that its largest value is positive.

    Args:
      count: Number of components; fewer are returned if there are fewer filters or values.

    Returns:
      The components, by decreasing variance, and the share of the variance that each explains.

    Raises:
      UserError: The model has no patch embedding of pixels.
    """
    kernel = params.get("patch_embed", {}).get("kernel")
    if kernel is None:
        raise UserError("the model has no patch embedding whose filters could be drawn")
    filters = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]).T
    _, sizes, components = np.linalg.svd(filters - filters.mean(axis=0), full_matrices=False)
    count = min(count, len(components))
    largest = np.abs(components).argmax(axis=-1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return components[:count].reshape(count, *kernel.shape[:-1]), (sizes**2 / (sizes**2).sum())[:count]
