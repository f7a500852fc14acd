"""Fisher matrices beyond the diagonal, where they are small: Kronecker factors, and the full one of regression."""

from __future__ import annotations

import numpy as np

from edge_kernels.arrays import Floats


def second_moment(features: Floats) -> Floats:
    """Mean of `x x^T`: the feature factor of the Kronecker Fisher, and the full Fisher of one regression output.

    Args:
        features: (N, D).

    Returns:
        (D, D), symmetric.
    """
    x = features.astype(np.float64)
    moment: Floats = x.T @ x / len(x)
    return moment


def label_covariance(probabilities: Floats) -> Floats:
    """Mean of `diag(p) - p p^T`: the label factor of the Kronecker Fisher.

    Args:
        probabilities: (N, K); each row sums to 1.

    Returns:
        (K, K), symmetric; each row sums to 0.
    """
    p = probabilities.astype(np.float64)
    covariance: Floats = np.diag(p.mean(axis=0)) - p.T @ p / len(p)  # Martens 2015, eq. 1, at the output layer
    return covariance


def kronecker_product(weights: Floats, *, label_factor: Floats, feature_factor: Floats) -> Floats:
    """Product of the Kronecker Fisher with weights, as if both were unrolled.

    Args:
        weights: (K, D).
        label_factor: (K, K).
        feature_factor: (D, D).

    Returns:
        (K, D); its inner product with the weights is EWC's penalty, times two.
    """
    product: Floats = label_factor.astype(np.float64) @ weights @ feature_factor
    return product


def rls_update(weights: Floats, covariance: Floats, *, features: Floats, targets: Floats) -> None:
    """Learn a batch by recursive least squares, which is EWC with the full Fisher of the regression head.

    Starting from zero weights and `identity / ridge`, any number of updates gives the ridge solution over all batches.

    Args:
        weights: (K, D), changed in place.
        covariance: (D, D) inverse of the summed Fisher of all batches before, changed in place.
        features: (N, D).
        targets: (N, K).
    """
    x = features.astype(np.float64)
    precision = np.linalg.inv(covariance) + x.T @ x
    covariance[...] = np.linalg.inv(precision)
    weights += (targets - x @ weights.T).T @ x @ covariance  # Plackett 1950
