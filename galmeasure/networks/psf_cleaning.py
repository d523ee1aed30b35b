"""PSF images made robust for networks: a pedestal is taken off, and wings below their own noise carry no weight."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from galmeasure.networks.inputs import PSF_SIZE

__all__ = ["CLEANING_SIZE", "N_PSF_QUALITY", "CleanPSFs", "clean_psfs"]

CLEANING_SIZE = 63
"""Odd side of the PSF images that are cleaned, native sampling, the star on the central pixel."""

N_PSF_QUALITY = 3

_N_HALF = (CLEANING_SIZE**2 + 1) // 2

_WING = 0.55  # radius, in half sizes of the image, beyond which a profile is wing
_POWERS = (3.0, 6.0)  # with which wings fall: those of diffraction, and those of a steep Moffat profile
_CORRELATED = 9.0  # by how much the variance of a mean over an annulus exceeds that of independent pixels, at most
_MOST_PEDESTAL = 0.01  # of the peak
_SIGNIFICANT = 9.0  # squared significance at which half of an estimated pedestal is believed
_WING_ERROR = 0.05  # error of the constant, in units of the wing where it begins: wings are not inverse cubes
_DARK = 1e-7  # of the peak: the size that the network is told is that of what is brighter
_FAINTEST = 1e-4


@dataclass(frozen=True)
class CleanPSFs:
    """PSFs as networks take them.

    Parameters
    ----------
    images : Tensor
        Cleaned images, shape ``(M, 63, 63)``, single precision, the sum 1.
    light : Tensor
        Sum of each cleaned image before it was normalised, shape ``(M,)``: a flux that belongs to the normalised
        image, over this, is the flux that belongs to the image as it was given.
    quality : Tensor
        Pedestal and noise of each image over its peak, and the half size of what is not dark, compressed to numbers of
        order 1, shape ``(M, 3)``.
    pedestal, noise : Tensor
        Pedestal that was taken off and noise of a pixel, over the peak, shape ``(M,)``.
    """

    images: torch.Tensor
    light: torch.Tensor
    quality: torch.Tensor
    pedestal: torch.Tensor
    noise: torch.Tensor

    @property
    def central(self) -> Tensor:
        """Central pixels, as networks take them, shape ``(M, 33, 33)``."""
        low = (CLEANING_SIZE - PSF_SIZE) // 2
        return self.images[:, low : low + PSF_SIZE, low : low + PSF_SIZE].contiguous()


@dataclass(frozen=True)
class _Annuli:
    """Geometry of the annuli, one pixel wide, about the central pixel, which is the last of the first half of all.

    An image and itself upside down have the same annuli, so that sums over an annulus are sums over the first half of
    the pixels, ``H`` of them, of the mean of opposite pixels. ``indicator`` ``(H, R)`` holds the number of pixels: 2,
    but for the central one; ``interpolation`` ``(R, H)`` the weights by which a profile is read at each pixel;
    ``square`` ``(H,)`` the larger of the distances from the centre along the axes; ``quadrupole`` ``(2, H, R)`` the
    indicator times cosine and sine of twice the angle.
    """

    indicator: torch.Tensor
    interpolation: torch.Tensor
    square: torch.Tensor
    quadrupole: torch.Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _annuli(device):
    half = CLEANING_SIZE // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float32, device=device)
    y, x = (axis.flatten()[:_N_HALF] for axis in torch.meshgrid(offset, offset, indexing="ij"))
    radius = torch.hypot(x, y)
    indicator = torch.nn.functional.one_hot(radius.round().long()).float()
    indicator = torch.nn.functional.pad(indicator, (0, 1))  # interpolation looks one annulus further
    number = 2.0 * indicator
    number[-1] *= 0.5
    mean_radius = (radius @ number / number.sum(0).clamp_min(1.0))[:-1]
    inner = (torch.bucketize(radius, mean_radius, right=True) - 1).clamp(0, len(mean_radius) - 2)
    share = ((radius - mean_radius[inner]) / (mean_radius[inner + 1] - mean_radius[inner])).clamp(0.0, 1.0)
    interpolation = torch.zeros_like(indicator)
    interpolation.scatter_(1, inner[:, None], 1.0 - share[:, None])
    interpolation.scatter_(1, inner[:, None] + 1, share[:, None])
    angle = 2.0 * torch.atan2(y, x)
    quadrupole = torch.stack([torch.cos(angle), torch.sin(angle)])[:, :, None] * number
    return _Annuli(number, interpolation.T.contiguous(), torch.maximum(x.abs(), y.abs()), quadrupole)


def clean_psfs(images: Tensor) -> CleanPSFs:
    """Clean PSF images of pedestals and noise.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, 63, 63)``, native sampling, the star on the central pixel; zeros beyond the end of smaller images.

    Returns
    -------
    CleanPSFs
        In single precision.

    Notes
    -----
    The mean profile of the wings is fitted with a constant plus an inverse power of the radius; the constant is
    taken off as far as it is significant. A pixel is then replaced by the mean of its annulus to the degree to which
    the profile there is below the noise of a pixel, and that mean is suppressed to the degree to which it is below its
    own noise (Wiener weights). Images without noise are left as they are, but for what their wings look like to the
    fit. The noise is that of the difference between the image and itself upside down: the spikes of diffraction are no
    noise.
    """
    annuli = _annuli(images.device)
    flat = images.flatten(1).float()
    peak = flat.amax(1, keepdim=True).clamp_min(1e-30)
    flat = flat / peak
    size = torch.maximum(flat[:, :_N_HALF].abs(), flat.flip(1)[:, :_N_HALF].abs())
    reach, half = (((size > level) * annuli.square).amax(1, keepdim=True).clamp_min(4.0) for level in (_DARK, 0.0))
    valid = (annuli.square <= half).float()
    count = (valid @ annuli.indicator).clamp_min(1e-3)
    # diffraction spikes look the same upside down, noise does not
    upper, lower = valid * flat[:, :_N_HALF], valid * flat.flip(1)[:, :_N_HALF]
    even, odd = 0.5 * (upper + lower), 0.5 * (upper - lower)
    profile = (even @ annuli.indicator) / count
    radius = torch.arange(profile.shape[1], device=flat.device, dtype=torch.float32) / half
    weight = torch.where(radius >= _WING, count, 0.0)
    residual = even - valid * (profile @ annuli.interpolation)
    turning = torch.stack([2.0 * (residual @ pattern) / count for pattern in annuli.quadrupole])
    of_even, of_odd = ((side**2 @ annuli.indicator) / count for side in (residual, odd))
    scatter = torch.minimum(of_even + of_odd - 0.5 * turning.square().sum(0), 2.0 * of_odd)
    variance = ((weight * scatter.clamp_min(0.0)).sum(1, keepdim=True) / weight.sum(1, keepdim=True)).clamp_min(1e-14)
    pedestal = _pedestal(profile, radius, weight, variance)
    profile = profile - pedestal
    of_mean = profile**2 / (profile**2 + _CORRELATED * variance / count)
    of_pixel = profile**2 / (profile**2 + variance)
    share = valid * (of_pixel @ annuli.interpolation)
    smooth = (valid - share) * ((of_mean * profile) @ annuli.interpolation) - share * pedestal
    share, smooth = (torch.cat([side, side[:, : _N_HALF - 1].flip(1)], 1) for side in (share, smooth))
    clean = torch.addcmul(smooth, share, flat)
    light = clean.sum(1, keepdim=True).clamp_min(1e-6)
    noise = variance.sqrt()
    quality = torch.cat(
        [torch.asinh(pedestal / _FAINTEST), torch.log1p(noise / _FAINTEST), reach / (CLEANING_SIZE // 2)], 1
    )
    images = (clean / light).view(-1, CLEANING_SIZE, CLEANING_SIZE)
    return CleanPSFs(images, (light * peak)[:, 0], quality, pedestal[:, 0], noise[:, 0])


def _pedestal(profile, radius, weight, variance):
    """Constant under the wings over the peak, ``(M, 1)``: the smaller of two fits, shrunk by its significance."""
    fits = [_constant(profile, radius, weight, variance, power) for power in _POWERS]
    constants, errors2 = (torch.stack(column) for column in zip(*fits, strict=True))
    chosen = constants.abs().argmin(0, keepdim=True)
    constant, error2 = (column.gather(0, chosen)[0] for column in (constants, errors2))
    constant = torch.where((constants > 0).all(0) | (constants < 0).all(0), constant, 0.0)
    constant = constant * constant**2 / (constant**2 + _SIGNIFICANT * error2).clamp_min(1e-30)
    return constant.clamp(-_MOST_PEDESTAL, _MOST_PEDESTAL)


def _constant(profile, radius, weight, variance, power):
    """Constant and its squared error, shape ``(M, 1)``, of a fit together with wings of a power."""
    falling = radius.clamp_min(1e-3) ** -power

    def total(values):
        return (weight * values).sum(1, keepdim=True)

    zeroth, first, second = total(1.0), total(falling), total(falling**2)
    level, along = total(profile), total(profile * falling)
    determinant = (zeroth * second - first**2).clamp_min(1e-6)
    constant = (second * level - first * along) / determinant
    wing = (zeroth * along - first * level) / determinant * _WING**-power
    return constant, _CORRELATED * variance * second / determinant + (_WING_ERROR * wing) ** 2
