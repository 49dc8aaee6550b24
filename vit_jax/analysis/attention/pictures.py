"""What a model sees of an image or a clip, as a picture."""

from typing import Any

import numpy as np

from vit_jax.data.image.values import Normalize


def as_pictures(encoder: Any, rows: np.ndarray) -> np.ndarray:
    """Undoes the normalisation of a model's inputs; returns the same shape with values from 0 to 1.

    The pictures are those that the model sees, after crops and resizing.

    Args:
      encoder: A `Preprocessing` or a `ClipPreprocessing`.
      rows: `(*batch, height, width, channels)`.
    """
    normalize = next(step for step in encoder.steps if isinstance(step, Normalize))
    return np.clip(rows * np.asarray(normalize.std) + np.asarray(normalize.mean), 0, 1)
