"""Chains of transforms that name the user's own code by import path."""

import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.chain import Call, parse
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError

NORMALIZE = "normalize(0.5, 0.5)"
CODE = """
from dataclasses import dataclass
from typing import ClassVar
from PIL import ImageOps
from vit_jax.data.image.arguments import Transform

@dataclass(frozen=True)
class Solarize(Transform):
    threshold: float = 0.5
    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, not {self.threshold}")
    def __call__(self, image, rng):
        return ImageOps.solarize(image, round(255 * self.threshold))

@dataclass(frozen=True)
class Negate(Transform):
    random: ClassVar[bool] = True
    on_array: ClassVar[bool] = True
    def __call__(self, image, rng):
        return -image if rng.random() < 0.5 else image

class NoDataclass(Transform):
    pass

@dataclass
class NoTransform:
    pass
"""


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "transforms.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("mylab", "mylab.transforms"):
        sys.modules.pop(name, None)


def test_a_dotted_name_is_a_step_like_others():
    chain = "a.b.Solarize(1, x='y')|flip|c.Negate|flip(0.5)"
    assert list(parse(chain)) == [
        Call("a.b.Solarize", [1], {"x": "y"}),
        Call("flip", [], {}),
        Call("c.Negate", [], {}),
        Call("flip", [0.5], {}),
    ]


def test_a_transform_of_the_users_own_is_used(mylab):
    chain = Preprocessing((8, 8), 3, f"mylab.transforms.Solarize(threshold=0.25)|{NORMALIZE}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(image).astype(np.float32)
    expected = np.where(pixels < 64, pixels, 255 - pixels)
    np.testing.assert_allclose(chain(image, None), (expected / 255 - 0.5) / 0.5, atol=1e-6)
    copy = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(copy(image, None), chain(image, None))
    assert Preprocessing.from_dict(chain.to_dict()) == chain


def test_a_random_transform_of_the_users_own_is_known_to_be_random(mylab):
    chain = Preprocessing((8, 8), 1, f"{NORMALIZE}|mylab.transforms.Negate")
    assert chain.random_transforms == ("mylab.transforms.Negate",)
    with pytest.raises(UserError, match=r"mylab\.transforms\.Negate: random, but no random generator"):
        chain(Image.new("L", (8, 8)), None)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("mylab.transforms.Solarize(treshold=1)", "unknown argument 'treshold'; did you mean 'threshold'?"),
        ("mylab.transforms.Solarize(2)", "mylab.transforms.Solarize: threshold must be from 0 to 1, not 2"),
        ("mylab.transforms.Solarise", "no 'Solarise'"),
        ("mylab.transfroms.Solarize", "mylab.transfroms"),
        ("mylab.transforms.NoDataclass", "must be a dataclass derived from vit_jax.data.image.arguments.Transform"),
        ("mylab.transforms.NoTransform", "must be a dataclass derived from vit_jax.data.image.arguments.Transform"),
        ("mylab.transforms.Negate", "'mylab.transforms.Negate' works on arrays: move it after 'normalize'"),
    ],
)
def test_mistakes_name_the_step(mylab, step, message):
    with pytest.raises(UserError) as caught:
        Preprocessing((8, 8), 3, f"{step}|{NORMALIZE}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
