"""Two measurements of the same galaxies agree: they may differ by a small part of their errors.

How a processor rounds depends on the instructions that it has, on how many galaxies are computed at once and on where
they lie in memory. So no test asks for equal bits of two computations; each asks for a difference that is far below the
error of the measurement, and far below what a galaxy's neighbours or its place would change if they mattered.
"""

import numpy as np
from astropy import units as u

ROUNDING = 1e-3
"""Part of an error that rounding in single precision may change.

Noise of one unit in the last place of every pixel moves a least-squares fit, or a network's posterior, by 1e-4.
"""

STOPPING = 0.03
"""The same of a least-squares fit, which ends when its next step is shorter than a hundredth of an error.

Where a step is about that long, rounding decides whether another evaluation follows. So it depends on the number of
threads, which changes what is computed together, and two fits may differ by about two such steps.
"""

BFLOAT16 = 0.1
"""The same of a network that computes with bfloat16: that noise moves a posterior by 0.04, and so does its use."""

_ENDS = ("init", "fit", "err", "q16", "q50", "q84", "crb")
_NO_NUMBERS = ("U", "S", "O", "b", "i", "u")


def plain(column):
    """Numbers of a column without their unit."""
    return np.asarray(u.Quantity(column).value)


def assert_rows_agree(table, expected, sigmas=ROUNDING, *, skip=("id",)):
    """Every column of a result table is that of another one, within a part of the error of what it measures.

    What has no error (S/N, chi-squared, scores) may differ by the same part of its value, or of 1 where it is smaller.
    """
    assert table.colnames == expected.colnames
    for name in expected.colnames:
        if name in skip:
            continue
        if np.asarray(expected[name]).dtype.kind in _NO_NUMBERS:
            np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
            continue
        found, wanted = plain(table[name]), plain(expected[name])
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted), err_msg=name)
        known = np.isfinite(wanted)
        difference = np.where(known, found, 0.0) - np.where(known, wanted, 0.0)
        if name == "theta":
            difference = (difference + 90.0) % 180.0 - 90.0
        limit = sigmas * _scale(name, expected, np.where(known, wanted, 0.0))
        assert (np.abs(difference) <= limit).all(), (name, np.max(np.abs(difference) / np.maximum(limit, 1e-300)))


def _scale(name, table, wanted):
    """Error of each number of a column, or what stands for it; where it is tiny, 1e-4 of the number itself."""
    if name == "covariance":
        error = np.sqrt(np.diagonal(wanted, axis1=1, axis2=2))
        return error[:, :, None] * error[:, None, :] + 1e-300
    if name in ("ra", "dec"):
        return np.full(wanted.shape, 1e-4)  # degrees
    base, _, end = name.rpartition("_")
    base = base if end in _ENDS else name
    if f"{base}_err" not in table.colnames:
        return np.maximum(1.0, np.abs(wanted))
    error = np.nan_to_num(plain(table[f"{base}_err"]))
    error = error.reshape(error.shape + (1,) * (wanted.ndim - error.ndim))
    return error + 1e-4 * np.abs(wanted)
