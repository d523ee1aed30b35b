"""Stamps of any shape as the 64 x 64 pixels that networks take, and what networks say as parameters of the stamp."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from galmeasure.networks.inputs import NATIVE_SIZE, PSF_SIZE, StampInputs
from galmeasure.parameters import SERSIC

__all__ = ["Window", "central_window", "network_psfs", "psf_offsets", "resize_stamps", "smooth", "width_in_blocks"]

_CENTRE = SERSIC.slice("x", "y")
_CENTROID_SIGMA = 3.0  # pixels, of the weight that finds which half of an odd side a galaxy lies in
_CENTROID_REACH = 8
_CENTROID_STEPS = 12
_NEAR_MIDDLE = 0.05
_PIXEL_FWHM2 = 2.3548**2 / 12.0  # squared FWHM, in pixels, that a pixel adds to a Gaussian of variance 1/12


@dataclass(frozen=True)
class Window:
    """Position of the 64 x 64 pixels of a network on each of a batch of stamps.

    Parameters
    ----------
    start : Tensor
        Pixel of the stamp, y and x, with which the window begins; may be negative, int64, shape ``(B, 2)``.
    block : int
        Pixels of the stamp, along each side, in one of the network's.
    psf_offset : Tensor, optional
        y, x of each row's star from the middle of its PSF image, where the network was given a PSF with the star in
        the middle, shape ``(B, 2)``: positions then are those that belong to the PSF image as it is.

    Notes
    -----
    A block of k x k pixels becomes one whose value is their mean times k. The noise of such a pixel is about that of
    one pixel of the stamp, and the unit of flux is k times larger: k times fewer units hold k times more electrons
    each. Fluxes are exact.
    """

    start: torch.Tensor
    block: int = 1
    psf_offset: torch.Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Window":
        """Return some of the rows, in the order of the index."""
        return Window(self.start[rows], self.block, None if self.psf_offset is None else self.psf_offset[rows])

    def with_psf_offset(self, offset: Tensor) -> "Window":
        """Return the same window for PSFs whose star was moved to the middle."""
        return replace(self, psf_offset=offset)

    @property
    def scale(self) -> Tensor:
        """Unit of each of the seven parameters, in the units and pixels of the stamp, shape ``(7,)``."""
        k = float(self.block)
        unit = {"flux": k, "length": k, "position": k, "number": 1.0}
        return torch.tensor(
            [unit[parameter.kind] for parameter in SERSIC.parameters], dtype=torch.float64, device=self.start.device
        )

    def offset(self) -> Tensor:
        """Offset that is added to parameters after their units have changed, shape ``(B, 7)``."""
        offset = torch.zeros((len(self.start), SERSIC.size), dtype=torch.float64, device=self.start.device)
        offset[:, _CENTRE] = self.start.flip(1).double() + 0.5 * (self.block - 1)
        if self.psf_offset is not None:
            offset[:, _CENTRE] -= self.psf_offset.flip(1)
        return offset

    def to_stamp(self, parameters: Tensor) -> Tensor:
        """Parameters ``(B, ..., 7)`` of the network's pixels as those of the stamp, double precision."""
        offset = self.offset()
        return parameters.double() * self.scale + offset.view(len(offset), *(1,) * (parameters.ndim - 2), SERSIC.size)

    def from_stamp(self, parameters: Tensor) -> Tensor:
        """Inverse of `to_stamp`."""
        offset = self.offset()
        return (parameters.double() - offset.view(len(offset), *(1,) * (parameters.ndim - 2), SERSIC.size)) / self.scale

    def covariance_to_stamp(self, covariance: Tensor) -> Tensor:
        """Covariances ``(B, 7, 7)`` in the units and pixels of the stamp, double precision."""
        return covariance.double() * self.scale[:, None] * self.scale


def central_window(shapes: Tensor, image: Tensor, block: int = 1) -> Window:
    """Window about the centre of each stamp.

    Parameters
    ----------
    shapes : Tensor
        ny, nx of each stamp, int64, shape ``(B, 2)``.
    image : Tensor
        Stamps, bad pixels 0, shape ``(B, ny, nx)``, padded at the high end where they are smaller.
    block : int, optional
        Pixels of the stamp along each side of the network's.

    Returns
    -------
    Window
        The centre of a stamp of even sides is that of the window. An odd side leaves half a pixel: the window lies
        so that the galaxy, by its weighted centroid, is on the near side of the middle.
    """
    spare = shapes - NATIVE_SIZE * block
    start = torch.div(spare, 2, rounding_mode="floor")
    odd = spare % 2 == 1
    if odd.any():
        start = start + (odd & (_centroid_side(shapes, image) > 0.0)).to(start.dtype)
    return Window(start, block)


def _centroid_side(shapes, image):
    """First moments along y and x about the centre of each stamp under a Gaussian window, shape ``(B, 2)``."""
    steps = torch.arange(-_CENTROID_REACH, _CENTROID_REACH + 1, device=image.device)
    middle = torch.div(shapes - 1, 2, rounding_mode="floor")
    index = [(middle[:, axis, None] + steps) for axis in (0, 1)]
    inside = [(pixel >= 0) & (pixel < shapes[:, axis, None]) for axis, pixel in enumerate(index)]
    index = [pixel.clamp(0, image.shape[axis + 1] - 1) for axis, pixel in enumerate(index)]
    rows = torch.arange(len(image), device=image.device)[:, None, None]
    pixels = image[rows, index[0][:, :, None], index[1][:, None, :]]
    distance = [pixel - (shapes[:, axis, None] - 1) / 2.0 for axis, pixel in enumerate(index)]
    weight = [torch.exp(-0.5 * (d / _CENTROID_SIGMA) ** 2) * ok for d, ok in zip(distance, inside, strict=True)]
    light = pixels * weight[0][:, :, None] * weight[1][:, None, :]
    return torch.stack([(light.sum(2) * distance[0]).sum(1), (light.sum(1) * distance[1]).sum(1)], 1)


def resize_stamps(
    image: Tensor,
    error: Tensor,
    good: Tensor,
    gain: Tensor | None,
    psf: Tensor,
    psf_index: Tensor,
    window: Window,
    smoothing: Tensor | None = None,
) -> StampInputs:
    """Inputs of a network from stamps.

    Parameters
    ----------
    image, error : Tensor
        Pixels and their noise, shape ``(B, ny, nx)``; ``error`` may broadcast.
    good : Tensor
        Boolean, shape ``(B, ny, nx)``, False beyond the end of stamps that are padded.
    gain : Tensor or None
        Electrons per unit, shape ``(B,)``.
    psf : Tensor
        Distinct PSFs at the window's block, from `network_psfs`.
    psf_index : Tensor
        Index of each stamp's PSF, shape ``(B,)``.
    window : Window
        Pixels that the network sees, from `central_window`.
    smoothing : Tensor, optional
        Amount for `smooth`, shape ``(B,)``: blocks are smoothed as their PSFs were.

    Returns
    -------
    StampInputs
        64 x 64 pixels; those beyond the stamp are bad. A block of which more than half is bad is bad; another one
        has the mean of its good pixels. The error of smoothed blocks is that before smoothing, which is right for
        anything larger than a pixel.
    """
    count, k = len(image), window.block
    gain = torch.full((count,), torch.inf, device=image.device) if gain is None else gain * k
    if k == 1 and image.shape[1:] == (NATIVE_SIZE, NATIVE_SIZE) and not window.start.any():
        return StampInputs(image, error, good, gain, psf, psf_index)
    steps = torch.arange(NATIVE_SIZE * k, device=image.device)
    index = [window.start[:, axis, None] + steps for axis in (0, 1)]
    inside = [(pixel >= 0) & (pixel < image.shape[axis + 1]) for axis, pixel in enumerate(index)]
    index = [pixel.clamp(0, image.shape[axis + 1] - 1) for axis, pixel in enumerate(index)]
    rows = torch.arange(count, device=image.device)
    pixels = rows[:, None, None], index[0][:, :, None], index[1][:, None, :]
    good = good[pixels] & inside[0][:, :, None] & inside[1][:, None, :]
    image = image[pixels]
    error = error if error.shape[-1] == 1 else torch.where(good, error.expand(count, *error.shape[1:])[pixels], 1.0)
    if k > 1:
        image, error, good = _average(image, error, good, k)
    if smoothing is not None:
        coverage = smooth(good.to(image.dtype), smoothing)
        image, good = smooth(torch.where(good, image, 0.0), smoothing), coverage >= 0.5
        image = torch.where(good, image / coverage.clamp_min(0.5), 0.0)
    return StampInputs(image, error, good, gain, psf, psf_index)


def _average(image, error, good, k):
    """Means of the good pixels of blocks, times k, their noise and whether they are good."""

    def total(pixels):
        return torch.nn.functional.avg_pool2d(pixels[:, None], k)[:, 0] * k**2

    weight = good.to(image.dtype)
    number = total(weight)
    per_good = k / number.clamp_min(1.0)
    error = (total(weight * error**2)).sqrt() * per_good
    enough = number >= 0.5 * k**2
    image = torch.where(enough, total(weight * image) * per_good, 0.0)
    return image, torch.where(enough, error, 1.0), enough


def smooth(image: Tensor, amount: Tensor) -> Tensor:
    """Images ``(B, ny, nx)``, each convolved with ``(a, 1 - 2 a, a)`` along y and x for its ``a`` in ``amount``.

    This adds a variance of ``2 a`` pixels to each axis of a PSF. Beyond the edges is nothing.
    """
    a = amount.to(image.dtype)[:, None, None]
    for axis in (1, 2):
        padded = torch.nn.functional.pad(image, (0, 0, 1, 1) if axis == 1 else (1, 1))
        count = image.shape[axis]
        image = (1.0 - 2.0 * a) * image + a * (padded.narrow(axis, 0, count) + padded.narrow(axis, 2, count))
    return image


def network_psfs(
    images: Tensor,
    oversampling: int = 1,
    block: int = 1,
    offset: tuple[float, float] = (0.0, 0.0),
    size: int = PSF_SIZE,
) -> Tensor:
    """PSF images at the sampling of a network's pixels.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, py, px)``, any sides, the star in the middle of the image, pixel response included.
    oversampling : int, optional
        PSF pixels per pixel of the stamp.
    block : int, optional
        Pixels of the stamp along each side of the network's.
    offset : tuple of float, optional
        y, x of the star from the middle of the images, pixels of the stamp.
    size : int, optional
        Odd side of the result.

    Returns
    -------
    Tensor
        Images of a star in the middle of the central pixel, shape ``(M, size, size)``, single precision; their sum
        is the light of the star within these pixels.

    Notes
    -----
    Where the star's position falls between the samples of the image, they are interpolated with a sinc, as the
    renderer's Fourier transform does.
    """
    is_native = oversampling == block == 1 and not any(offset)
    if is_native and images.shape[1] % 2 == images.shape[2] % 2 == 1:
        for axis in (1, 2):
            cut = (images.shape[axis] - size) // 2
            images = images.narrow(axis, cut, size) if cut > 0 else images
        pad = [(size - images.shape[axis]) // 2 for axis in (2, 2, 1, 1)]
        return torch.nn.functional.pad(images, pad).float()
    build = _sampling if any(offset) else _kept_sampling
    rows, columns = (build(images.shape[i], oversampling, block, images.device, offset[i - 1], size) for i in (1, 2))
    return (rows @ images.double() @ columns.T).float()


def psf_offsets(psf: Tensor) -> Tensor:
    """Offsets of stars from the middle of PSF images ``(M, side, side)``, shape ``(M, 2)``: y, x.

    The offset is the centroid of the pixels brighter than a tenth of the peak; where it is not in the middle, it is
    the centroid under a Gaussian window that follows it.
    """
    psf = psf.double()
    distance = torch.arange(psf.shape[1], device=psf.device, dtype=psf.dtype) - (psf.shape[1] - 1) / 2.0
    light = (psf - 0.1 * psf.amax((1, 2), keepdim=True)).clamp_min(0.0)
    offset = _centroid(light, distance)
    away = torch.nonzero(offset.abs().amax(1) > _NEAR_MIDDLE)[:, 0]
    images, centres = psf[away], offset[away]
    for _ in range(_CENTROID_STEPS):
        apart = distance[None, None] - centres[:, :, None]
        weight = torch.exp(-0.5 * (apart / _CENTROID_SIGMA) ** 2)
        light = images.clamp_min(0.0) * weight[:, 0, :, None] * weight[:, 1, None, :]
        centres = centres + (1.5 * (_centroid(light, distance) - centres)).clamp(-1.0, 1.0)
    offset[away] = centres
    return offset


def _centroid(light, distance):
    total = light.sum((1, 2)).clamp_min(1e-30)
    return torch.stack([(light.sum(3 - axis) * distance).sum(1) / total for axis in (1, 2)], 1)


def _sampling(side, oversampling, block, device, offset, size):
    """Matrix ``(size, side)`` from samples along one side of a PSF image to the network's pixels."""
    reach = size // 2
    pixels = torch.arange(size * block, dtype=torch.float64) - (reach * block + 0.5 * (block - 1)) + offset
    samples = torch.arange(side, dtype=torch.float64) - 0.5 * (side - 1)
    # the image's samples sum to the star's light: a pixel of the stamp holds as many of them as fit into it
    matrix = torch.sinc(pixels[:, None] * oversampling - samples) * oversampling
    matrix[matrix.abs() < 1e-12] = 0.0
    return matrix.view(size, block, side).sum(1).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _kept_sampling(*arguments):
    return _sampling(*arguments)


def width_in_blocks(
    fwhm: float | npt.NDArray[np.float64] | Tensor, block: int
) -> float | npt.NDArray[np.float64] | Tensor:
    """Full width at half maximum of PSFs in blocks of pixels, pixel response included.

    Parameters
    ----------
    fwhm : float, ndarray or Tensor
        Widths in pixels of the stamp, response of these pixels included.
    block : int
        Pixels of the stamp, along each side, in one block.

    Returns
    -------
    float, ndarray or Tensor
        Widths in blocks; that of the block's response is added in quadrature.
    """
    return (fwhm**2 + _PIXEL_FWHM2 * (block**2 - 1)) ** 0.5 / block
