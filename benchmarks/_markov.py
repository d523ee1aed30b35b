"""Markov chains, for checks of other samplers: affine-invariant moves and their autocorrelation."""

import numpy as np


def stretch_moves(log_density, start, n_steps, rng, scale=2.0):
    """Markov chains by the affine-invariant stretch move (Goodman & Weare 2010, CAMCoS 5, 65).

    Parameters
    ----------
    log_density : callable
        Of ``(W / 2, D)`` values, shape ``(W / 2,)``.
    start : ndarray, shape (W, D)
        Walkers, an even number of them.
    n_steps : int
        Moves of each walker.
    rng : numpy.random.Generator
        Of the moves.
    scale : float, optional
        Largest stretch.

    Returns
    -------
    ndarray, shape (n_steps, W, D)
        All positions.
    """
    walkers, half = start.copy(), len(start) // 2
    values = np.concatenate([log_density(walkers[:half]), log_density(walkers[half:])])
    chain = np.empty((n_steps, *walkers.shape))
    for step in range(n_steps):
        for mine, others in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            z = ((scale - 1.0) * rng.random(half) + 1.0) ** 2 / scale
            partners = walkers[others][rng.integers(0, half, half)]
            proposed = partners + z[:, None] * (walkers[mine] - partners)
            new = log_density(proposed)
            log_ratio = (walkers.shape[1] - 1) * np.log(z) + new - values[mine]
            accepted = np.log(rng.random(half)) < log_ratio
            walkers[mine] = np.where(accepted[:, None], proposed, walkers[mine])
            values[mine] = np.where(accepted, new, values[mine])
        chain[step] = walkers
    return chain


def autocorrelation_time(chain):
    """Integrated time of chains ``(T, W)``, averaged over them (Sokal's window)."""
    away = chain - chain.mean()
    size = 2 ** int(np.ceil(np.log2(2 * len(away))))
    transform = np.fft.rfft(away, size, axis=0)
    correlation = np.fft.irfft(np.abs(transform) ** 2, size, axis=0)[: len(away)].mean(1)
    times = 2.0 * np.cumsum(correlation / correlation[0]) - 1.0
    window = np.arange(len(times)) >= 5.0 * times
    return times[window.argmax()] if window.any() else times[-1]
