"""The diagonal Fisher of softmax, one-hidden-layer and regression heads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_kernels.arrays import Floats, Ints


class HiddenFisher(NamedTuple):
    """The diagonal Fisher of a head with one hidden layer of H units.

    Attributes:
        weights_in: (H, D).
        bias_in: (H,).
        weights_out: (K, H).
        bias_out: (K,).
    """

    weights_in: Floats
    bias_in: Floats
    weights_out: Floats
    bias_out: Floats


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row.

    Args:
        logits: (N, K).

    Returns:
        (N, K); each row sums to 1.
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def fisher_true(features: Floats, probabilities: Floats, *, has_bias: bool = False) -> Floats:
    """Exact diagonal Fisher of softmax weights, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        probabilities: (N, K); each row sums to 1.
        has_bias: whether the head has a bias, a weight whose input is always 1.

    Returns:
        (K, D), in the shape of the weights; (K, D + 1) with a bias, which is the last column.
    """
    p = probabilities.astype(np.float64)
    return _layer(features, p * (1 - p), has_bias)  # Martens 2020, sec. 9.2: no label is sampled


def fisher_empirical(features: Floats, probabilities: Floats, labels: Ints, *, has_bias: bool = False) -> Floats:
    """Exact diagonal empirical Fisher of softmax weights, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        probabilities: (N, K); each row sums to 1.
        labels: (N,) the given class of each sample.
        has_bias: see `fisher_true`.

    Returns:
        (K, D), in the shape of the weights; (K, D + 1) with a bias.
    """
    p = probabilities.astype(np.float64)
    return _layer(features, (p - np.eye(p.shape[1])[labels]) ** 2, has_bias)  # Kunstner 2019, eq. 3


def fisher_sampled(features: Floats, probabilities: Floats, uniforms: Floats, *, has_bias: bool = False) -> Floats:
    """Exact diagonal Fisher of softmax weights for labels drawn from the model, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        probabilities: (N, K); each row sums to 1.
        uniforms: (N,) in [0, 1): the label is the first class at which the summed probabilities pass it.
        has_bias: see `fisher_true`.

    Returns:
        (K, D), in the shape of the weights; (K, D + 1) with a bias. Its mean over the uniforms is `fisher_true`.
    """
    passed = np.cumsum(probabilities, axis=1, dtype=np.float64) <= uniforms[:, None]
    labels = np.minimum(passed.sum(axis=1), probabilities.shape[1] - 1)
    return fisher_empirical(features, probabilities, labels, has_bias=has_bias)  # Kunstner 2019, sec. 2.1


def fisher_mse(features: Floats, *, has_bias: bool = False) -> Floats:
    """Exact diagonal Fisher of a linear regression head with noise of variance 1, averaged over the batch.

    Args:
        features: (N, D) head inputs.
        has_bias: see `fisher_true`.

    Returns:
        (D,), the same for every output; (D + 1,) with a bias. Neither outputs nor targets matter.
    """
    fisher: Floats = _layer(features, np.ones((len(features), 1)), has_bias)[0]
    return fisher


def fisher_hidden_true(
    features: Floats, hidden: Floats, *, slopes: Floats, probabilities: Floats, weights: Floats
) -> HiddenFisher:
    """Exact diagonal Fisher of a softmax head with one hidden layer, averaged over the batch.

    A unit's delta is its slope times `weights[y] - mean of the weights under the probabilities`, with the sign
    turned, so that its expected square is a variance, and no label is sampled.

    Args:
        features: (N, D) inputs of the hidden layer.
        hidden: (N, H) its activations.
        slopes: (N, H) derivatives of the activation function.
        probabilities: (N, K); each row sums to 1.
        weights: (K, H) of the output layer.
    """
    p, w = probabilities.astype(np.float64), weights.astype(np.float64)
    mean = p @ w
    spread = np.stack([p_n @ (w - mean_n) ** 2 for p_n, mean_n in zip(p, mean, strict=True)])
    return _both_layers(features, hidden, slopes.astype(np.float64) ** 2 * spread, p * (1 - p))


def fisher_hidden_empirical(
    features: Floats, hidden: Floats, *, slopes: Floats, probabilities: Floats, weights: Floats, labels: Ints
) -> HiddenFisher:
    """Exact diagonal empirical Fisher of a softmax head with one hidden layer, averaged over the batch.

    Args:
        features: (N, D) inputs of the hidden layer.
        hidden: (N, H) its activations.
        slopes: (N, H) derivatives of the activation function.
        probabilities: (N, K); each row sums to 1.
        weights: (K, H) of the output layer.
        labels: (N,) the given class of each sample.
    """
    delta = probabilities.astype(np.float64) - np.eye(len(weights))[labels]
    return _both_layers(features, hidden, (slopes * (delta @ weights.astype(np.float64))) ** 2, delta**2)


def _both_layers(features: Floats, hidden: Floats, squares_in: Floats, squares_out: Floats) -> HiddenFisher:
    first, second = _layer(features, squares_in, True), _layer(hidden, squares_out, True)
    return HiddenFisher(first[:, :-1], first[:, -1], second[:, :-1], second[:, -1])


def _layer(inputs: Floats, squared_deltas: Floats, has_bias: bool) -> Floats:
    x = inputs.astype(np.float64)
    if has_bias:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fisher: Floats = np.einsum("nk,nd->kd", squared_deltas, x**2) / len(x)
    return fisher
