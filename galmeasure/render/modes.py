"""Wavenumbers of a stamp's own period as a list, and Sersic models and PSFs on them, without transforms to pixels."""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.parameters import SERSIC
from galmeasure.render.grid import centred_transform
from galmeasure.render.profiles import TABLE_LOG_K, coarse_table, polynomial_pieces
from galmeasure.render.sersic import KAPPA_MIN, described_profiles
from galmeasure.render.wrap import light_beyond
from galmeasure.utils.chunks import CACHE_LINE, SIDE_BY_SIDE, chunk_size

__all__ = [
    "BANDS", "COARSE_STEP", "Modes", "Profiles", "compiled_table", "mode_bands", "modes_of_band", "stamp_transforms",
]  # fmt: skip

BANDS = (0.625, 0.8, 1.0, 1.42)
"""Radii of the discs of wavenumbers that are kept, in units of the Nyquist wavenumber."""

_BAND_TOLERANCE = 0.007

_N = SERSIC.index("n")
_COARSE = 3  # nodes of the table in log k for each one that is kept
COARSE_STEP = _COARSE * float(TABLE_LOG_K[1] - TABLE_LOG_K[0])
"""Distance in log k of the nodes of the table in use."""


@dataclass(frozen=True)
class Modes:
    """Half of the wavenumbers of a stamp within a disc, without those that are conjugates of others; zero is the first.

    Parameters
    ----------
    index : Tensor
        Positions in the flattened half-plane ``(ny, nx // 2 + 1)`` of `torch.fft.rfft2`, shape ``(K,)``.
    ky, kx : Tensor
        Wavenumbers, radians per pixel, shape ``(K,)``.
    forms : Tensor
        ``kx**2 + ky**2``, ``kx**2 - ky**2`` and ``2 kx ky``, shape ``(3, K)``.
    count : Tensor
        How often each one occurs in the full plane: 1 for zero, 2 for the others and 0 for those that fill the last
        cache line, shape ``(K,)``.
    middle : Tensor
        Phase factors, complex, that move the middle of the stamp to the origin, shape ``(K,)``.
    centre_products : Tensor
        ``ky**2``, ``ky kx``, ``kx**2``, ``ky``, ``kx``, shape ``(5, K)``.
    lines : ndarray
        Those that lie side by side in a row of the plane, without those that count nothing: the first one's position in
        this list, their number, order of the row, which may be negative, and of the first column, shape ``(L, 4)``.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    """

    index: torch.Tensor
    ky: torch.Tensor
    kx: torch.Tensor
    forms: torch.Tensor
    count: torch.Tensor
    middle: torch.Tensor
    centre_products: torch.Tensor
    lines: NDArray[np.int64]
    shape: tuple[int, int]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve autograd too
def modes_of_band(
    shape: tuple[int, int], band: float, device: torch.device | str, dtype: torch.dtype, *, full_lines: bool = False
) -> Modes:
    """List the wavenumbers of a stamp within a disc.

    Parameters
    ----------
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    band : float
        Radius of the disc, in units of the Nyquist wavenumber.
    device : torch.device or str
        Torch device of the result.
    dtype : torch.dtype
        Real type of the result.
    full_lines : bool, optional
        List a multiple of 8 wavenumbers of each row of the plane, from the first column on, as one line; those that are
        conjugates of others, or outside the disc, count nothing.
    """
    ky, kx = _half_plane(shape)
    inside = (torch.hypot(ky, kx) < band * torch.pi) & ((kx > 0) | (ky >= 0))
    inside &= torch.maximum(ky.abs(), kx) < torch.pi * (1.0 - 1e-9)  # a Nyquist wave is its own alias
    if full_lines:
        index, count, lines = _full_lines(inside)
    else:
        index = torch.nonzero(inside.flatten())[:, 0]
        count, lines = torch.full((len(index),), 2.0, dtype=ky.dtype), _lines(index.numpy(), shape)
    count[0] = 1.0  # zero is the first
    # whole cache lines, with wavenumbers that count nothing: sums round alike wherever a galaxy lies in memory
    missing = -len(index) % CACHE_LINE
    index, count = torch.nn.functional.pad(index, (0, missing)), torch.nn.functional.pad(count, (0, missing))
    ky, kx = ky.flatten()[index], kx.flatten()[index]
    forms = torch.stack([kx**2 + ky**2, kx**2 - ky**2, 2.0 * kx * ky])
    products = torch.stack([ky**2, ky * kx, kx**2, ky, kx])
    angle = 0.5 * (ky * (shape[0] - 1) + kx * (shape[1] - 1))
    middle = torch.polar(torch.ones_like(angle), angle).to(device, dtype.to_complex())
    ky, kx, forms, count, products = (column.to(device, dtype) for column in (ky, kx, forms, count, products))
    return Modes(index.to(device), ky, kx, forms, count, middle, products, lines, shape)


def _lines(index, shape):
    """Those of ascending positions in the half-plane that lie side by side, see `Modes`."""
    row, column = np.divmod(index, shape[1] // 2 + 1)
    start = np.flatnonzero(np.diff(index, prepend=-2) != 1)
    start = np.union1d(start, np.flatnonzero(np.diff(row, prepend=-1)))
    order = np.where(row > shape[0] // 2, row - shape[0], row)
    return np.stack([start, np.diff(start, append=len(index)), order[start], column[start]], 1)


def _full_lines(inside):
    """Positions, counts and full lines of the wavenumbers ``inside`` the half-plane, and of others that fill them."""
    n_rows, n_columns = inside.shape
    inside = torch.nn.functional.pad(inside, (0, -n_columns % SIDE_BY_SIDE))
    last = (inside * torch.arange(1, inside.shape[1] + 1)).amax(1)
    chosen = torch.arange(inside.shape[1]) < (last + -last % SIDE_BY_SIDE)[:, None]
    position = torch.arange(n_rows)[:, None] * n_columns + torch.arange(inside.shape[1])
    index = torch.where(inside, position, 0)[chosen]  # the others are as good as zero, which is there
    row, length = torch.nonzero(last)[:, 0].numpy(), chosen.sum(1).numpy()
    order = np.where(row > n_rows // 2, row - n_rows, row)
    length = length[row]
    lines = np.stack([length.cumsum() - length, length, order, np.zeros_like(row)], 1)
    return index, 2.0 * inside[chosen].double(), lines


def _half_plane(shape):
    """Wavenumbers ``ky`` and ``kx`` of the half-plane, shape ``(ny, nx // 2 + 1)``, double precision."""
    ny, nx = shape
    ky = torch.fft.fftfreq(ny, dtype=torch.float64) * (2.0 * torch.pi)
    kx = torch.arange(nx // 2 + 1, dtype=torch.float64) * (2.0 * torch.pi / nx)
    return (grid.contiguous() for grid in torch.broadcast_tensors(ky[:, None], kx[None, :]))


def stamp_transforms(images: Tensor, shape: tuple[int, int], *, oversampling: int = 1) -> Tensor:
    """Transform PSF images on the native wavenumbers of a stamp's own period.

    Parameters
    ----------
    images : Tensor
        Shape ``(M, py, px)``, as in `galmeasure.render.prepare_psf`.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    oversampling : int, optional
        PSF pixels per pixel of the stamp.

    Returns
    -------
    Tensor
        Complex, shape ``(M, ny, nx // 2 + 1)``, the PSF's centre at phase zero; a native image keeps its aliases.
    """
    chunks = images.float().split(chunk_size("transformed images"))
    transform = torch.cat([centred_transform(chunk, shape, oversampling) for chunk in chunks])
    ny, nx = shape
    if oversampling == 1:
        return transform
    rows = torch.cat([torch.arange((ny + 1) // 2), torch.arange(-(ny // 2), 0) + transform.shape[-2]])
    return transform[:, rows.to(images.device), : nx // 2 + 1].contiguous()


def mode_bands(
    transform: Tensor,
    shape: tuple[int, int],
    bands: tuple[float, ...] = BANDS,
    tolerance: float = _BAND_TOLERANCE,
) -> Tensor:
    """Choose the disc of wavenumbers that hold the information of models with each PSF.

    Parameters
    ----------
    transform : Tensor
        From `stamp_transforms`, shape ``(M, ny, nx // 2 + 1)``.
    shape : tuple of int
        Sides of the stamp ``(ny, nx)``, pixels.
    bands : tuple of float, optional
        Radii among which to choose, ascending, in units of the Nyquist wavenumber.
    tolerance : float, optional
        Modulus of the PSF's transform, relative to zero, below which wavenumbers hold so little information that they
        are left out.

    Returns
    -------
    Tensor
        Positions in ``bands``, shape ``(M,)``.
    """
    ky, kx = _half_plane(shape)
    ring = (torch.hypot(ky, kx) / torch.pi).to(transform.device)
    power = transform.abs()
    limit = tolerance * power[:, 0, 0]
    needed = torch.full((len(transform),), len(bands) - 1, dtype=torch.int64, device=transform.device)
    for position in reversed(range(len(bands) - 1)):
        outside = (power * (ring > bands[position])).amax((1, 2))
        needed = torch.where(outside <= limit, position, needed)
    return needed


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _pieces(device, dtype):
    """Polynomial pieces of the transform in log k, shape ``(rows, 4 P)``."""
    return torch.tensor(polynomial_pieces(coarse_table(_COARSE)), dtype=dtype, device=device).flatten(1)


@lru_cache(maxsize=1)
def compiled_table() -> NDArray[np.float32]:
    """Polynomial pieces in log k of the transform, the coefficients of a piece side by side, ``(rows, 4 P)``."""
    pieces = polynomial_pieces(coarse_table(_COARSE)).transpose(0, 2, 1)
    return np.ascontiguousarray(pieces, np.float32).reshape(len(pieces), -1)


@dataclass(frozen=True)
class Profiles:
    """What the transforms of Sersic profiles need on any wavenumbers.

    Parameters
    ----------
    n : Tensor
        Sersic indices, shape ``(B,)``.
    form : Tensor
        Coefficients of ``kappa**2``, shape ``(B, 3)``.
    rows : Tensor
        Rows of the tables in n, shape ``(B, 4)``.
    weights : Tensor
        Weights of these rows for the value and for the derivative by n, shape ``(B, 2, 4)``.
    b_and_amplitude : Tensor
        Value and slope in n of ``b_n`` and of the log amplitude, shape ``(B, 2, 2)``.
    """

    n: torch.Tensor
    form: torch.Tensor
    rows: torch.Tensor
    weights: torch.Tensor
    b_and_amplitude: torch.Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Self:
        """Profiles of Sersic parameters ``(B, 7)``; flux and centre are not used."""
        first, weights, form, b_and_amplitude = described_profiles(parameters, derivatives=True)
        rows = first[:, None] + torch.arange(4, device=first.device)
        return cls(parameters[:, _N], form, rows, weights, b_and_amplitude)

    def of_rows(self, rows: Tensor) -> "Profiles":
        """Return some of the profiles."""
        return Profiles(*(getattr(self, field.name)[rows] for field in fields(self)))

    def value_on_modes(self, modes: Modes) -> Tensor:
        """Evaluate the transforms for unit flux, without derivatives.

        Parameters
        ----------
        modes : Modes
            Wavenumbers of the stamps.

        Returns
        -------
        Tensor
            Transform, shape ``(B, K)``.
        """
        pieces = _pieces(self.n.device, self.n.dtype)
        coefficients = torch.bmm(self.weights[:, :1], pieces[self.rows]).unflatten(2, (4, -1))
        _, index, t = self._position(modes, coefficients.shape[-1])
        c0, c1, c2, c3 = (torch.gather(coefficients[:, 0, j], 1, index) for j in range(4))
        return c0.addcmul_(t, c1.addcmul_(t, c2.addcmul_(t, c3)))

    def on_modes(self, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the transforms for unit flux.

        Parameters
        ----------
        modes : Modes
            Wavenumbers of the stamps.

        Returns
        -------
        value, by_n, by_kappa2 : Tensor
            Transform and its derivatives by the Sersic index and by the squared wavenumber, shape ``(B, K)``.
        """
        pieces = _pieces(self.n.device, self.n.dtype)
        coefficients = torch.bmm(self.weights, pieces[self.rows]).unflatten(2, (4, -1))
        kappa2, index, t = self._position(modes, coefficients.shape[-1])
        c0, c1, c2, c3 = (torch.gather(coefficients[:, 0, j], 1, index) for j in range(4))
        value = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
        slope = torch.addcmul(c1, t, torch.addcmul(c2.mul_(2.0), t, c3, value=3.0)).mul_(0.5 / COARSE_STEP).div_(kappa2)
        c0, c1, c2, c3 = (torch.gather(coefficients[:, 1, j], 1, index) for j in range(4))
        return value, torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3))), slope

    def _position(self, modes, n_pieces):
        """Squared wavenumbers ``(B, K)`` in units of the profiles, and index and fraction in the table."""
        a, b, c = self.form[:, :, None].unbind(1)
        plus, minus, cross = modes.forms
        kappa2 = torch.addcmul(a * plus, b, minus).addcmul_(c, cross).clamp_min_(KAPPA_MIN**2)
        position = torch.log(kappa2).mul_(0.5 / COARSE_STEP).sub_(float(TABLE_LOG_K[0]) / COARSE_STEP)
        position.clamp_(0.0, n_pieces - 0.0001)
        index = position.long()
        return kappa2, index, position.sub_(index)

    def light_outside(self, shape: tuple[int, int], *, derivatives: bool = True) -> Tensor:
        """Light outside a stamp in whose middle the profiles are, with its derivatives by n, a, b, c.

        Parameters
        ----------
        shape : tuple of int
            Sides of the stamp ``(ny, nx)``, pixels.
        derivatives : bool, optional
            Let the derivatives follow the light.

        Returns
        -------
        Tensor
            For unit flux, shape ``(B, 5)``, or ``(B, 1)`` without derivatives.
        """
        beyond = light_beyond(self.n[:, None], self.form, self.b_and_amplitude, shape, derivatives, rings=0)
        return beyond * (shape[0] * shape[1])
