"""Every family against installed peers and the authors' code, tiny and at published sizes: `pytest -m parity`."""

import numpy as np
import pytest

from tests.parity.cases import PUBLISHED, TINY
from tests.parity.compare import ours, relative_l2, theirs

pytestmark = pytest.mark.parity


def compare(case, logits_tolerance):
    shapes, logits, gradients = theirs(case)
    got, of_ours = ours(case, shapes)
    assert relative_l2(got, logits) < logits_tolerance
    names = sorted(of_ours)
    whole = [np.concatenate([tree[name].reshape(-1) for name in names]) for tree in (of_ours, gradients)]
    assert relative_l2(*whole) < 1e-4
    unused = {name for name, gradient in gradients.items() if name not in of_ours and gradient.any()}
    assert not unused


@pytest.mark.parametrize("name", TINY)
def test_tiny(name):
    compare(TINY[name], 1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    compare(PUBLISHED[name], 1e-4)
