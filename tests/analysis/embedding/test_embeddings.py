"""Numbers of embeddings against their definitions: neighbours, probe, CKA and maps."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.analysis.embedding.embeddings import (
    check_same_examples,
    cka,
    cka_matrix,
    knn_accuracy,
    nearest,
    probe_accuracy,
    project,
)
from vit_jax.errors import UserError
from vit_jax.plots.embeddings import plot_cka, plot_map, plot_nearest

RNG = np.random.default_rng(0)
CENTRES = 3 * np.eye(5)[:3]
LABELS = np.arange(60) % 3
CLUSTERS = CENTRES[LABELS] + 0.3 * RNG.standard_normal((60, 5))


def test_nearest_neighbours_are_those_of_the_cosine():
    features = RNG.standard_normal((20, 4))
    order, similarity = nearest(features, features, 3, leave_out=np.arange(20))
    for i, x in enumerate(features):
        cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) if j != i else -2 for j, y in enumerate(features)]
        expected = sorted(range(20), key=lambda j, cosine=cosine: -cosine[j])[:3]
        assert order[i].tolist() == expected
        np.testing.assert_allclose(similarity[i], np.array(cosine)[expected])
    with pytest.raises(UserError, match="20 neighbours were asked for, but there are 19"):
        nearest(features, features, 20, leave_out=np.arange(20))


def test_accuracy_of_neighbours():
    assert knn_accuracy(CLUSTERS, LABELS, 5) == 1
    assert knn_accuracy(CLUSTERS, LABELS, 5, test=(CENTRES, np.arange(3))) == 1
    assert knn_accuracy(CLUSTERS, LABELS, 5, test=(CENTRES, np.array([0, 2, 1]))) == pytest.approx(1 / 3)
    # two neighbours, one of each class: the more similar one wins
    features, labels = np.array([[1.0, 0], [0.9, 0.5], [1, 0.9]]), np.array([0, 1, 2])
    assert knn_accuracy(features, labels, 2, test=(np.array([[1, 0.05]]), np.array([0]))) == 1
    with pytest.raises(UserError, match="several labels"):
        knn_accuracy(CLUSTERS, np.eye(3)[LABELS])


def test_accuracy_of_a_probe():
    assert probe_accuracy(CLUSTERS, LABELS) == 1
    assert probe_accuracy(CLUSTERS, LABELS, test=(CENTRES, np.array([0, 1, 1]))) == pytest.approx(2 / 3)
    assert probe_accuracy(RNG.standard_normal((60, 5)), LABELS) < 0.6
    with pytest.raises(UserError, match="class 2 has 4"):
        probe_accuracy(CLUSTERS, np.where(np.arange(60) < 4, 2, 0))


def test_cka_is_that_of_kernels():
    x, y = RNG.standard_normal((30, 4)), RNG.standard_normal((30, 7))
    centre = np.eye(30) - 1 / 30
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))  # HSIC of linear kernels
    assert cka(x, y) == pytest.approx(expected)
    rotation, _ = np.linalg.qr(RNG.standard_normal((4, 4)))
    assert cka(x, 5 * x @ rotation + 3) == pytest.approx(1)
    assert cka(np.repeat([[1.0], [-1]], 15, axis=0), np.tile([[1.0], [-1], [1]], (10, 1))) == pytest.approx(0)
    np.testing.assert_allclose(cka_matrix([x, y], [y]), [[expected], [1]])
    with pytest.raises(UserError, match="the same examples, got 30 and 29"):
        cka(x, y[1:])


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_keeps_clusters_apart_and_is_deterministic(method):
    points = project(CLUSTERS, method)
    assert points.shape == (60, 2)
    assert knn_accuracy(points - points.mean(axis=0), LABELS, 1) > 0.9
    np.testing.assert_array_equal(points, project(CLUSTERS, method))
    with pytest.raises(UserError, match="at least 4 examples, got 3"):
        project(CLUSTERS[:3], method)
    with pytest.raises(UserError, match="all examples have the same features"):  # t-SNE would crash the process
        project(np.ones((5, 2)), method)
    with pytest.raises(UserError, match="some features are not finite"):
        project(np.where(np.arange(5) == 3, np.nan, CLUSTERS), method)


def test_pca_is_that_of_the_covariance():
    centred = CLUSTERS - CLUSTERS.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(centred.T))
    np.testing.assert_allclose(np.abs(project(CLUSTERS, "pca")), np.abs(centred @ vectors[:, :-3:-1]), atol=1e-9)
    assert not project(CLUSTERS[:, :1], "pca")[:, 1].any()


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UserError, match="pip install umap-learn"):
        project(CLUSTERS, "umap")
    with pytest.raises(UserError, match="known: tsne, pca, umap"):
        project(CLUSTERS, "sne")


def test_other_examples_are_refused():
    check_same_examples([1, 2], [1, 2], ("a", "b"))
    with pytest.raises(
        UserError, match="a and b hold features of other examples: 3 and 2, of which 1 have the same id"
    ):
        check_same_examples(np.array([1, 2, 3]), np.array([3, 4]), ("a", "b"))


def test_figures(tmp_path):
    plot_map(tmp_path / "map.png", {"a": CLUSTERS[:, :2], "b\nsecond line": CLUSTERS[:, 1:3]}, LABELS, ["x", "y", "z"])
    plot_map(tmp_path / "plain.svg", {"$a$": CLUSTERS[:, :2]})
    plot_cka(tmp_path / "cka.png", np.eye(3), "block", "block")
    plot_nearest(tmp_path / "images.png", RNG.random((2, 3, 8, 8, 1)), [["a"] * 3] * 2)
    plot_nearest(tmp_path / "clips.png", RNG.random((2, 3, 4, 8, 8, 3)), [["a"] * 3] * 2)
    for name in ("map", "cka", "images"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width == 990
    with pytest.raises(UserError, match="tells 56 classes apart, but there are 60"):
        plot_map(tmp_path / "map.png", {"a": CLUSTERS[:, :2]}, np.arange(60))
