"""A transform of your own, for a chain: `mylab.transforms.Shade(0.2)|normalize(mean=0.5, std=0.5)`."""

import dataclasses
from typing import ClassVar

from PIL import Image

from vit_jax.data.image.arguments import Transform


@dataclasses.dataclass(frozen=True)
class Shade(Transform):
    """Multiplies all pixels by a random factor between 1 - strength and 1.

    The fields are the arguments in the chain. `random` marks transforms that draw from `rng`, which evaluation refuses.
    """

    strength: float = 0.5
    random: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")

    def __call__(self, image: Image.Image, rng) -> Image.Image:
        factor = 1 - self.strength * rng.random()
        return image.point(lambda value: round(value * factor))
