"""Tiny models against the stored results of peers with the same weights, which `make_goldens.py` records."""

import json
import pathlib

import numpy as np
import pytest

from tests.parity.cases import TINY
from tests.parity.compare import ours, projections, relative_l2

GOLDENS = pathlib.Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", TINY)
def test_tiny(name):
    with np.load(GOLDENS / f"{name}.npz") as golden:
        shapes, names = json.loads(str(golden["shapes"])), json.loads(str(golden["names"]))
        expected = golden["logits"], golden["gradients"]
    logits, gradients = ours(TINY[name], shapes)
    assert relative_l2(logits, expected[0]) < 1e-5
    assert relative_l2(projections(gradients, names), expected[1]) < 1e-4
