"""Residuals of fitted galaxies in a few numbers: by zones, on several scales, and as moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from galmeasure.networks import NATIVE_SIZE
from galmeasure.networks.inputs import hermite_moments
from galmeasure.parameters import SERSIC
from galmeasure.utils.compiled import compiled_module

__all__ = ["STATISTICS", "ResidualFeatures", "residual_features"]

STATISTICS = ("centre", "wings", "noise_high", "noise_low", "pixel", "hole", "blob_2", "blob_4", "blob_8")
"""Names of the statistics, in order; see `residual_features`."""

_CENTRE, _WINGS = 1.5, 5.0  # radii of the zones, in widths of the galaxy
_REACH, _LEAST_REACH = 4.0, 8.0  # radius in which single places are looked at: in widths, and at least in pixels
_FWHM_SIGMA = 2.3548
_CLIP = 4.0
_MEAN, _VARIANCE = 0.9205369, 1.2323681  # of min(w**2, 4), w a standard normal


@dataclass(frozen=True)
class ResidualFeatures:
    """Residuals in a few numbers.

    Parameters
    ----------
    statistics : Tensor
        Statistics of each row, shape ``(B, len(STATISTICS))``; the larger, the less like noise.
    moments : Tensor
        Hermite moments of the residual over noise, each of unit variance if it is noise, shape ``(B, M)``.
    """

    statistics: torch.Tensor
    moments: torch.Tensor

    def __getitem__(self, rows: Tensor) -> "ResidualFeatures":
        """Return some of the rows, in the order of the index."""
        return ResidualFeatures(self.statistics[rows], self.moments[rows])

    @classmethod
    def join(cls, batches: "Sequence[ResidualFeatures]") -> Self:
        """Concatenate the features of several batches."""
        return cls(torch.cat([batch.statistics for batch in batches]), torch.cat([batch.moments for batch in batches]))


def residual_features(residual: Tensor, good: Tensor, values: Tensor, psf_fwhm: Tensor) -> ResidualFeatures:
    """Statistics and moments of residuals.

    Parameters
    ----------
    residual : Tensor
        Image minus model over the noise, 0 where bad, shape ``(B, 64, 64)``.
    good : Tensor
        Boolean, True for good pixels, shape ``(B, 64, 64)``.
    values : Tensor
        Parameters of the models in these pixels, shape ``(B, 7)``.
    psf_fwhm : Tensor
        Width of the PSF in these pixels, shape ``(B,)``.

    Returns
    -------
    ResidualFeatures
        Statistics and moments of each row.

    Notes
    -----
    With the galaxy's width ``s``, the quadratic sum of ``r_eff`` and the PSF's sigma: ``centre`` and ``wings`` are
    chi-squared within 1.5 s and from there to 5 s, as a number of its standard deviations. ``noise_high`` and
    ``noise_low`` say whether the pixels of the whole stamp scatter more, or less, than their errors; a neighbour,
    however bright, moves them little. Within 4 s and at least 8 pixels, ``pixel`` is the largest single residual,
    ``hole`` the most negative one and ``blob_k`` the largest mean of k x k pixels, each as half its squared
    significance less the logarithm of the number of places.
    """
    width = torch.hypot(values[:, SERSIC.index("r_eff")], psf_fwhm / _FWHM_SIGMA).to(residual.dtype)[:, None, None]
    loops = compiled_module("galmeasure.ood.compiled", residual)
    if loops is not None:
        return ResidualFeatures(
            _compiled_statistics(loops, residual, good, values, width[:, 0]), hermite_moments(residual)
        )
    square, radius = residual**2, _squared_radius(values, residual)
    within = [good & (radius < (factor * width) ** 2) for factor in (_CENTRE, _WINGS)]
    statistics = [_excess(square, within[0]), _excess(square, within[0] ^ within[1])]
    number = good.sum((1, 2))
    spread = square.clamp_max(_CLIP).sum((1, 2)) - _MEAN * number
    spread = spread / (_VARIANCE * number.clamp_min(1)).sqrt()
    statistics += [spread, -spread]
    looked_at = good & (radius < (_REACH * width).clamp_min(_LEAST_REACH) ** 2)
    number = looked_at.sum((1, 2)).clamp_min(1)
    looked_at = looked_at.to(residual.dtype)
    local = residual * looked_at
    highest, lowest = local.amax((1, 2)), -local.amin((1, 2))
    statistics += [_significance(extreme, number) for extreme in (torch.maximum(highest, lowest), lowest)]
    statistics += _blobs(local, looked_at)
    return ResidualFeatures(torch.stack(statistics, 1), hermite_moments(residual))


def _compiled_statistics(loops, residual, good, values, width):
    """Statistics of residuals, by compiled loops."""
    centre = values[:, list(SERSIC.indices("x", "y"))].to(residual.dtype)
    limits = torch.cat([_CENTRE * width, _WINGS * width, (_REACH * width).clamp_min(_LEAST_REACH)], 1) ** 2
    statistics = residual.new_empty(len(residual), len(STATISTICS))
    arrays = (tensor.contiguous().numpy() for tensor in (residual, good, centre, limits))
    loops.residual_statistics(*arrays, _CLIP, _MEAN, _VARIANCE, statistics.numpy())
    return statistics


def _squared_radius(values, residual):
    """Squared distance of each pixel from the centre."""
    steps = torch.arange(NATIVE_SIZE, device=residual.device, dtype=residual.dtype)
    x, y = (values[:, [column]].to(residual.dtype) for column in SERSIC.indices("x", "y"))
    return ((steps - y) ** 2)[:, :, None] + ((steps - x) ** 2)[:, None, :]


def _excess(square, zone):
    """Chi-squared of a zone, less its mean, over its standard deviation."""
    number = zone.sum((1, 2))
    total = (square * zone).sum((1, 2))
    return (total - number) / (2.0 * number.clamp_min(1)).sqrt()


def _significance(largest, number):
    return 0.5 * largest**2 - number.to(largest.dtype).log()


def _blobs(residual, good):
    """Largest means of blocks of 2, 4 and 8 pixels that overlap by half."""
    significances = []
    for step in (1, 2, 2):
        residual, good = (_fours(image[:, ::step, ::step]) for image in (residual, good))
        largest = (residual.abs() * good.clamp_min(1.0).rsqrt()).amax((1, 2))
        significances.append(_significance(largest, (good > 0.0).sum((1, 2)).clamp_min(1)))
    return significances


def _fours(image):
    """Sums of 2 x 2 neighbours."""
    pairs = image[:, 1:] + image[:, :-1]
    return pairs[:, :, 1:] + pairs[:, :, :-1]
