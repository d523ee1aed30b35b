"""Exact weights from cheap ones: a random part of the draws is evaluated exactly, and corrects the sums of all.

Draws ``x_i`` of a proposal ``q`` have cheap weights ``a_i = A(x_i) / q(x_i)`` and exact ones ``e_i = E(x_i) / q(x_i)``.
Only some draws are evaluated exactly: draw ``i`` with probability ``p_i``, in proportion to ``a_i``, by systematic
sampling. The weights in use are

    W_i = a_i                            of draws that were not evaluated,
    W_i = a_i + (e_i - a_i) / p_i        of those that were,

so that, over the choice, the mean of every ``W_i`` is ``e_i``: sums of the weights, with or without a function of the
draws, have the expectation of those of exact weights, however bad the approximation. What converges with more draws is
the exact posterior, not the approximate one. The price is variance: with ``r = E / A``, ``M`` evaluated draws and
weights that sum to 1, the squares of the weights sum to about ``sum a_i**2 + var(r) / M``, and the effective number of
draws, one over that sum, counts it. Where ``r`` scatters by 0.1 and M is 20, the second term is 0.0005, beside 0.01 for
a hundred draws.

A constant factor between A and E is taken from the draws of the first choice. This is a ratio estimator: its bias is
that of self-normalised weights, of the order of ``var(r) / M``.

References
----------
Neyman 1938, Journal of the American Statistical Association 33, 101 (two-phase sampling); Horvitz & Thompson 1952,
Journal of the American Statistical Association 47, 663; Fearnhead, Papaspiliopoulos & Roberts 2008, Journal of the
Royal Statistical Society B 70, 755 (random weights).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "corrected", "inclusion"]

_ROUNDS = 20


def inclusion(weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Probabilities, at most 1 and else proportional to weights, that sum to a number of choices.

    Parameters
    ----------
    weights : ndarray, shape (S,)
        Weights of the draws, not negative.
    count : int
        Choices; with fewer weights that are not zero, all of those have probability 1.

    Returns
    -------
    ndarray, shape (S,)
        Probability of each draw to be chosen.
    """
    probability = np.zeros_like(weights)
    certain = np.zeros(len(weights), dtype=bool)
    for _ in range(_ROUNDS):
        left = np.where(certain, 0.0, weights)
        if not left.any():
            break
        probability = np.where(certain, 1.0, left / left.sum() * max(count - certain.sum(), 0))
        if not (probability > 1.0).any():
            break
        certain |= probability > 1.0
    return np.minimum(np.where(certain, 1.0, probability), 1.0)


def choose(probability: NDArray[np.float64], uniform: float) -> NDArray[np.int64]:
    """Choose draws by systematic sampling.

    Parameters
    ----------
    probability : ndarray, shape (S,)
        Probability of each draw to be chosen.
    uniform : float
        Number between 0 and 1 that decides.

    Returns
    -------
    ndarray of int64
        Draws that were chosen, each once, ascending.
    """
    total = probability.cumsum()
    levels = uniform + np.arange(int(np.ceil(total[-1] - uniform - 1e-9)))
    return np.unique(np.searchsorted(total, levels).clip(max=len(total) - 1))


def corrected(ratio: NDArray[np.float64], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors of the cheap weights of draws that were evaluated exactly.

    Parameters
    ----------
    ratio : ndarray, shape (M,)
        Exact over cheap weights.
    probability : ndarray, shape (M,)
        Probability with which each of these draws was chosen.

    Returns
    -------
    ndarray, shape (M,)
        Weights in use over cheap ones; may be negative.
    """
    return 1.0 + (ratio - 1.0) / probability
