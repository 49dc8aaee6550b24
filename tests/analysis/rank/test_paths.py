"""Paths through heads: by length and one by one, they add up to the network."""

import itertools
import math

import jax
import numpy as np
import pytest

from tests.analysis.rank.test_branches import made
from vit_jax.analysis.rank.branches import Parts, open_stack, run
from vit_jax.analysis.rank.paths import (
    heads_of,
    outputs_by_length,
    paths_by_length,
    sample_paths,
    share_of_lengths,
    summary,
    terms_of,
)
from vit_jax.errors import UserError

NAMES = ("vit", "layer scale", "space_only", "divided", "parallel", "local and global", "post-norm", "pre-norm")
PARTS = [Parts(), Parts(mlp=False), Parts(mlp=False, norm=False), Parts(skip=False, mlp=False)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_paths_add_up_to_the_network(name, parts, randomised):
    model, params, inputs, _ = made(name, randomised)
    stack = open_stack(model, params, *inputs)
    paths, output = paths_by_length(stack, parts), run(stack, parts)[-1]
    np.testing.assert_allclose(paths.output, output, atol=1e-5)
    assert len(paths.terms) == len(heads_of(stack)) + 1
    if not parts.skip and not stack.blocks[0][0][0].leaves_class_token:
        assert not paths.terms[:-1].any()  # without skip connections, every path passes every attention


@pytest.mark.parametrize("name", ["vit", "post-norm", "parallel"])
def test_single_paths_add_up_to_those_of_their_length(name, randomised):
    model, params, inputs, _ = made(name, randomised)
    stack = open_stack(model, params, *inputs)
    heads = heads_of(stack)
    every = np.array(list(itertools.product(*(range(-1, count) for count in heads))))
    terms, paths = terms_of(stack, every), paths_by_length(stack)
    lengths = (every >= 0).sum(axis=1)
    for length, expected in enumerate(paths.terms):
        chosen = lengths == length
        assert chosen.sum() == math.comb(len(heads), length) * heads[0] ** length
        np.testing.assert_allclose(terms[chosen].sum(axis=0), expected, atol=1e-9)


def test_a_path_is_a_product_of_attention_weights_and_values(randomised):
    model, params, inputs, _ = made("vit", randomised)
    _, captured = model.apply({"params": params}, *inputs, train=False, capture=("attention/0",))
    stack = open_stack(model, params, *inputs)
    (term,) = terms_of(stack, np.array([[1, -1]]), Parts(mlp=False, norm=False))
    (normed,) = terms_of(stack, np.array([[1, -1]]))
    block = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"]["block_0"])
    value_out = block["attention"]["value"]["kernel"][:, 1] @ block["attention"]["out"]["kernel"][1]
    x = np.asarray(stack.tokens)
    centred = x - x.mean(-1, keepdims=True)
    x_normed = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * block["attention_norm"]["scale"]
    np.testing.assert_allclose(normed, np.asarray(captured["attention/0"])[:, 1] @ x_normed @ value_out, atol=1e-5)
    assert not np.allclose(term, normed)


def test_outputs_from_all_paths_are_those_of_the_model(randomised):
    model, params, inputs, _ = made("vit", randomised)
    found = outputs_by_length(model, params, *inputs)
    assert found.shape == (3, 2, 5)
    np.testing.assert_allclose(found[-1], model.apply({"params": params}, *inputs, train=False), atol=1e-4)
    assert not np.allclose(found[0], found[-1])


def test_the_summary_has_residuals_and_shares(randomised):
    model, params, inputs, _ = made("pre-norm", randomised)
    stack = open_stack(model, params, *inputs)
    paths = paths_by_length(stack)
    found = summary(paths, stack.real, "frobenius")
    real = np.asarray(stack.real)
    for length, terms in enumerate(np.asarray(paths.terms)):
        for i, (x, whole) in enumerate(zip(terms, np.asarray(paths.output), strict=True)):
            rest, present, all_rest = (
                y[real[i]] - y[real[i]].mean(0) * centre for y, centre in ((x, 1), (x, 0), (whole, 1))
            )
            size = np.linalg.norm(rest)
            np.testing.assert_allclose(found["residual"][length, i], size / np.linalg.norm(present), rtol=1e-6)
            np.testing.assert_allclose(found["share"][length, i], size / np.linalg.norm(all_rest), rtol=1e-6)


def test_shares_of_lengths_are_those_of_all_paths():
    lengths = [sum(head > 0 for head in path) for path in itertools.product(range(4), repeat=5)]  # 0 is the skip
    np.testing.assert_allclose(share_of_lengths(5, 3), np.bincount(lengths) / 4**5)
    assert share_of_lengths(96, 96).sum() == pytest.approx(1)


def test_sampled_paths_have_the_length_asked_for():
    paths = sample_paths([3, 2, 4], 2, 200, seed=1)
    assert ((paths >= 0).sum(axis=1) == 2).all()
    assert (paths < [3, 2, 4]).all()
    assert {tuple(path) for path in paths} == {
        path for path in itertools.product(range(-1, 3), range(-1, 2), range(-1, 4)) if sum(h >= 0 for h in path) == 2
    }
    np.testing.assert_array_equal(paths, sample_paths([3, 2, 4], 2, 200, seed=1))
    with pytest.raises(UserError, match="no path has length 4: the network has 3 attentions"):
        sample_paths([3, 2, 4], 4, 1)


def test_mlps_without_skip_connections_leave_no_path(randomised):
    model, params, inputs, _ = made("vit", randomised)
    with pytest.raises(ValueError, match="paths end at an MLP"):
        paths_by_length(open_stack(model, params, *inputs), Parts(skip=False))
