"""Quality flags: the one registry of bits, and their decoder.

A bit is defined here once; table metadata, ``decode_flags``, the command line's summary and the
documentation's table are all made from :data:`FLAGS`.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np

__all__ = ["FLAGS", "FlagDefinition", "Flag", "decode_flags"]


@dataclass(frozen=True)
class FlagDefinition:
    """One quality bit.

    Parameters
    ----------
    bit : int
        Position of the bit; its value is ``2**bit``.
    name : str
        Short name, as returned by :func:`decode_flags`.
    description : str
        What it says about the row.
    """

    bit: int
    name: str
    description: str

    @property
    def value(self) -> int:
        """Value of the bit, ``2**bit``."""
        return 1 << self.bit


FLAGS = tuple(
    FlagDefinition(bit, name, description)
    for bit, (name, description) in enumerate(
        (
            ("failed", "no measurement was possible; the measured columns are NaN"),
            ("not_converged", "the fit stopped before it converged"),
            ("at_bound", "a parameter ended at its bound"),
            ("negative_flux", "the measured flux is negative"),
            ("many_masked", "more than half of the pixels, or the central ones, are masked"),
            ("centre_outside", "the measured centre lies outside the stamp"),
            ("error_estimated", "no error was given; it was estimated from the border pixels"),
            ("nonfinite_pixels", "pixels that were not finite, or had no valid error, were masked"),
            ("truncated", "the stamp cuts the galaxy: much of the model's flux lies outside"),
            ("outside_domain", "outside the training domain of the weights"),
            ("bad_fit", "reduced chi2 too large for noise alone"),
            ("out_of_distribution", "does not look like a galaxy of the training set"),
            ("psf_unusual", "PSF far off centre, under-sampled, larger than the stamp, mended, or none was given"),
            ("poor_proposal", "few of the draws from the network's posterior agree with the pixels; see ess"),
            ("prior_dominated", "the data hardly narrow the prior of the Sersic index or of the half-light radius"),
            ("psf_light_unknown", "S/N above 200, and over 0.5 % of a star's light may be outside of the PSF image"),
        )
    )
)
"""Every quality bit, in order; ``FLAGS[i].value`` is ``2**i``."""

Flag = IntFlag("Flag", {flag.name.upper(): flag.value for flag in FLAGS}, module=__name__)
Flag.__doc__ = "Quality bits as an integer flag, e.g. ``Flag.AT_BOUND | Flag.TRUNCATED``."


def decode_flags(flags: Any) -> list[str] | list[list[str]]:
    """Names of the bits that are set.

    Parameters
    ----------
    flags : int or array_like of int
        Value, or column, of ``flags`` from a result table.

    Returns
    -------
    list of str, or list of list of str
        Names of the bits set, for one value or for each of them.

    Raises
    ------
    TypeError
        If ``flags`` is not of an integer type.
    ValueError
        If a value is negative or holds a bit that is not defined.

    Examples
    --------
    >>> from galmeasure import decode_flags
    >>> decode_flags(6)
    ['not_converged', 'at_bound']
    >>> decode_flags([0, 1])
    [[], ['failed']]
    """
    values = np.asarray(flags)
    if not np.issubdtype(values.dtype, np.integer):
        msg = f"flags must be integers, not {values.dtype}"
        raise TypeError(msg)
    if values.size and (values.min() < 0 or values.max() >= 1 << len(FLAGS)):
        msg = f"flags must lie between 0 and {(1 << len(FLAGS)) - 1}"
        raise ValueError(msg)
    if values.ndim == 0:
        return [flag.name for flag in FLAGS if int(values) & flag.value]
    return [decode_flags(value) for value in values]
