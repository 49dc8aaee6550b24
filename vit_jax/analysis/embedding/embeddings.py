"""Embeddings of a data set: what a model's features say about classes, and how similar two sets of features are.

The functions take features, `(examples, hidden_dim)`, as `Run.features` returns them or `stored_features.read` reads
them. They compute on the host.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.errors import UserError

METHODS = ("tsne", "pca", "umap")
Features = Float[np.ndarray, "examples hidden_dim"]
Labels = Int[np.ndarray, " examples"]


def project(features: Features, method: str = "tsne", seed: int = 0) -> Float[np.ndarray, "examples 2"]:
    """Returns two coordinates for each example.

    - `tsne`: t-SNE (van der Maaten and Hinton, 2008) of scikit-learn, with a perplexity of 30 or, for few examples, a
      third of their number, after PCA to 50 dimensions.
    - `pca`: the first two principal components.
    - `umap`: UMAP (arXiv:1802.03426) with the defaults of `umap-learn`, which must be installed.

    Raises:
      UserError: The method is unknown, its package is not installed, there are fewer than 4 examples, or a map cannot
        be made of their features, because some are not finite or those of all examples are the same.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if len(features) < 4:
        raise UserError(f"a map needs at least 4 examples, got {len(features)}")
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        raise UserError("some features are not finite: no map can be made of them")
    if np.ptp(features, axis=0).max() == 0:  # scikit-learn's t-SNE would crash
        raise UserError("all examples have the same features: no map can be made of them")
    from sklearn.decomposition import PCA

    if method == "umap":
        try:
            import umap  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("method='umap' needs the package umap-learn: pip install umap-learn") from None
        return np.asarray(umap.UMAP(random_state=seed).fit_transform(features))
    reduced = PCA(min(50 if method == "tsne" else 2, *features.shape), random_state=seed).fit_transform(features)
    if method == "pca":
        return np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def nearest(
    features: Features, queries: Features, count: int, *, leave_out: Int[np.ndarray, " queries"] | None = None
) -> tuple[Int[np.ndarray, "queries count"], Float[np.ndarray, "queries count"]]:
    """Returns the examples with the most similar features, the most similar first, and the cosine similarities.

    Args:
      leave_out: For each query the index of an example that is not a neighbour, such as the query itself.

    Raises:
      UserError: There are fewer than `count` examples.
    """
    available = len(features) - (leave_out is not None)
    if not 1 <= count <= available:
        raise UserError(f"{count} neighbours were asked for, but there are {available} other examples")
    similarity = _unit(queries) @ _unit(features).T
    if leave_out is not None:
        similarity[np.arange(len(queries)), leave_out] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(similarity, order, axis=1)


def knn_accuracy(features: Features, labels: Labels, k: int = 20, test: tuple[Features, Labels] | None = None) -> float:
    """Returns the share of examples whose class is the most frequent one among their k nearest neighbours.

    Neighbours have the largest cosine similarity. Of classes that are equally frequent, the one with the larger sum of
    similarities wins. Without `test`, each example is classified by the others.

    Raises:
      UserError: There are fewer than k neighbours, or examples with several labels.
    """
    labels = _single(labels)
    queries, expected = (features, labels) if test is None else (test[0], _single(test[1]))
    found, similarity = nearest(features, queries, k, leave_out=np.arange(len(queries)) if test is None else None)
    votes = np.zeros((len(queries), int(labels.max()) + 1))
    tie_break = (1 + similarity) / (4 * k)  # their sum stays below one vote
    np.add.at(votes, (np.arange(len(queries))[:, None], labels[found]), 1 + tie_break)
    return float((votes.argmax(axis=1) == expected).mean())


def probe_accuracy(
    features: Features, labels: Labels, test: tuple[Features, Labels] | None = None, l2: float = 1.0
) -> float:
    """Returns the accuracy of a linear probe: logistic regression on standardised features.

    Without `test`, it is the mean over the examples of a five-fold cross-validation, stratified by class.

    Args:
      l2: Weight of half the squared norm of the coefficients, next to the sum of the losses; scikit-learn's 1 / C.

    Raises:
      UserError: A class has fewer than five examples and there is no `test`, or examples have several labels.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = _single(labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / l2, max_iter=2000))
    if test is not None:
        predicted = np.asarray(probe.fit(features, labels).predict(test[0]))
        return float(np.mean(predicted == _single(test[1])))
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 5:
        raise UserError(
            f"a linear probe in five folds needs five examples per class, but class {classes[counts.argmin()]} has "
            f"{counts.min()}. Use more examples, or a training split."
        )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(np.mean(np.asarray(cross_val_predict(probe, features, labels, cv=folds)) == labels))


def cka(x: Features, y: Float[np.ndarray, "examples other_dim"]) -> float:
    """Returns the linear centred kernel alignment of two sets of features (Kornblith et al., arXiv:1905.00414).

        CKA(X, Y) = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)

    for X and Y with centred columns: 1 if they are equal up to rotation, scale and translation, 0 if no linear function
    of one is correlated with the other (section 3, "linear CKA").

    Raises:
      UserError: The numbers of examples differ.
    """
    if len(x) != len(y):
        raise UserError(f"CKA compares features of the same examples, got {len(x):,} and {len(y):,}")
    x, y = (np.asarray(z, np.float64) - np.mean(z, axis=0, dtype=np.float64) for z in (x, y))
    norm = np.linalg.norm
    return float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


def cka_matrix(first: Sequence[Features], second: Sequence[Features]) -> Float[np.ndarray, "first second"]:
    """Returns `cka` of every layer of one model with every layer of another, or with those of the same one."""
    return np.array([[cka(x, y) for y in second] for x in first])


def check_same_examples(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Raises UserError unless two arrays of ids are equal."""
    if len(first) != len(second) or not np.array_equal(first, second):
        common = len(np.intersect1d(first, second))
        raise UserError(
            f"{names[0]} and {names[1]} hold features of other examples: {len(first):,} and {len(second):,}, of which "
            f"{common:,} have the same id. Compute both on the same split, with the same number of examples."
        )


def _unit(features: Features) -> Features:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-300)


def _single(labels: Any) -> Labels:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise UserError("examples with several labels have no single class; neighbours and probes need one")
    return labels.astype(int)
