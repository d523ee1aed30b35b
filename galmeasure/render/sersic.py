"""The Sersic model and its derivatives: evaluated in Fourier space, transformed to stamps."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from galmeasure.parameters import N_PARAMETERS, SERSIC
from galmeasure.render.grid import PSFGrid, fold_columns, place_rows, wavenumbers
from galmeasure.render.profiles import TABLE_LOG_K, TABLE_LOG_N, load_table, polynomial_pieces, profile_table
from galmeasure.render.wrap import interpolation, lattice, light_beyond, wrapped_light
from galmeasure.utils.chunks import rows_per_chunk
from galmeasure.utils.compiled import compiled_module

__all__ = ["is_narrow_ridge", "quadratic_form", "raw_jacobian_matrix", "render_raw", "render_sersic"]

RIDGE_SHEAR = 0.5
RIDGE_LENGTH = 0.025
"""Beyond this ``|g|``, and ``|g|`` times semi-major axis over the period, a galaxy gets a larger grid."""

_ENLARGEMENTS = (4.0 / 3.0, 2.0)
_SHORT, _LONG = 0.05, 0.1  # |g| times semi-major axis over the period
_LONGEST_PRODUCT = 48  # pixels a side: beyond it fast transforms are as quick as products
_STEEP = 2.5  # Sersic index below which the light of a short ridge is gone where the grid wraps it around
_NARROW = 0.8  # |g| from which a ridge is narrower than the PSF where the grid wraps it around

_FLUX, _N, _R_EFF, _G1, _G2, _X, _Y = SERSIC.indices("flux", "n", "r_eff", "g1", "g2", "x", "y")
_SHEAR = SERSIC.slice("g1", "g2")

RAW = ("model", "n", "a", "b", "c", "y", "x")
"""Coordinates of the renderer, in the order of its images: ``a, b, c`` are those of the quadratic form."""

RAW_INDEX = {name: i for i, name in enumerate(RAW)}
RAW_FORM = slice(RAW_INDEX["a"], RAW_INDEX["c"] + 1)

_LOG_N_STEP = float(TABLE_LOG_N[1] - TABLE_LOG_N[0])
LOG_K_STEP = float(TABLE_LOG_K[1] - TABLE_LOG_K[0])
KAPPA_MIN = 1e-4
"""Wavenumbers below this, in units of the inverse half-light radius, count as zero."""


@lru_cache(maxsize=1)
def _compiled_table():
    """Polynomial pieces in log k of the transform, the coefficients of a piece side by side."""
    return np.ascontiguousarray(polynomial_pieces(load_table()).transpose(0, 2, 1), np.float32)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _tables(device, dtype):
    """Polynomial pieces in log k of the transform, and the table of ``b_n`` and log amplitude, on a device."""
    transform = torch.tensor(polynomial_pieces(load_table()), dtype=dtype, device=device).flatten(1)
    profile = torch.tensor(profile_table(), dtype=dtype, device=device)
    return transform, profile


_BSPLINE = (
    (1 / 6, -1 / 2, 1 / 2, -1 / 6),
    (2 / 3, 0.0, -1.0, 1 / 2),
    (1 / 6, 1 / 2, 1 / 2, -1 / 2),
    (0.0, 0.0, 0.0, 1 / 6),
)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _bspline_matrix(device, dtype):
    """Coefficients ``(power of t, derivative in t, spline)`` of the four uniform cubic B-splines."""
    value = torch.tensor(_BSPLINE, dtype=torch.float64).T
    power = torch.arange(1.0, 4.0, dtype=torch.float64)[:, None]
    slope = torch.nn.functional.pad(power * value[1:], (0, 0, 0, 1))
    curvature = torch.nn.functional.pad(power * slope[1:], (0, 0, 0, 1))
    return torch.stack([value, slope, curvature], 1).to(device, dtype)


def index_weights(n: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First row of the n-table used by each galaxy; its spline weights, and their two derivatives in ``n``."""
    position = (torch.log(n) - float(TABLE_LOG_N[0])) / _LOG_N_STEP
    first = position.floor().clamp(0, len(TABLE_LOG_N) - 2)
    t = position - first
    of_powers = _bspline_matrix(n.device, n.dtype)
    t = t[:, None, None]
    # the polynomials and their first and second derivatives in t
    c0, c1, c2, c3 = of_powers
    weights, slopes, curvatures = (c0 + t * (c1 + t * (c2 + t * c3))).unbind(1)
    along = (_LOG_N_STEP * n)[:, None]
    return first.long(), weights, slopes / along, (curvatures - _LOG_N_STEP * slopes) / along**2


def profile_pieces(n: Tensor, order: int = 1) -> tuple[Tensor, Tensor]:
    """Per-galaxy tables of the transform and of its derivatives in ``n``.

    Returns
    -------
    pieces : Tensor
        Polynomial pieces in log k, shape ``(B, order + 1, 4, K - 1)``.
    b_and_amplitude : Tensor
        ``b_n`` and log amplitude with their derivatives, shape ``(B, order + 1, 2)``.
    """
    transform, profile = _tables(n.device, n.dtype)
    first, *weights = index_weights(n)
    rows = first[:, None] + torch.arange(4, device=n.device)
    weights = torch.stack(weights[: order + 1], 1)  # (B, order + 1, 4)
    return torch.bmm(weights, transform[rows]).unflatten(2, (4, -1)), torch.bmm(weights, profile[rows])


def described_profiles(parameters: Tensor, *, derivatives: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What renderers need of profiles before they evaluate them anywhere; of the shape, not of flux and centre.

    Parameters
    ----------
    parameters : Tensor
        Sersic parameters, shape ``(B, 7)``.
    derivatives : bool
        Let derivatives by n follow the values of weights, ``b_n`` and log amplitude.

    Returns
    -------
    first : Tensor
        First of four rows of the tables in n, shape ``(B,)``.
    weights : Tensor
        Weights of these rows, shape ``(B, 1 or 2, 4)``.
    form : Tensor
        Coefficients of ``kappa**2``, from `quadratic_form`, shape ``(B, 3)``.
    b_and_amplitude : Tensor
        ``b_n`` and log amplitude, shape ``(B, 1 or 2, 2)``.
    """
    n_orders = 2 if derivatives else 1
    loops = compiled_module("galmeasure.render.compiled_profiles", parameters)
    if loops is not None:
        count = len(parameters)
        first, form = torch.empty(count, dtype=torch.int64), parameters.new_empty(count, 3)
        weights, b_and_amplitude = (parameters.new_empty(count, n_orders, numbers) for numbers in (4, 2))
        shape = (parameters[:, column].numpy() for column in (_N, _R_EFF, _G1, _G2))
        results = (column.numpy() for column in (first, weights, form, b_and_amplitude))
        loops.describe_profiles(*shape, float(TABLE_LOG_N[0]), _LOG_N_STEP, _profile_table(), *results)
        return first, weights, form, b_and_amplitude
    first, *weights = index_weights(parameters[:, _N])
    weights = torch.stack(weights[:n_orders], 1)
    _, profile = _tables(parameters.device, parameters.dtype)
    rows = first[:, None] + torch.arange(4, device=first.device)
    return first, weights, quadratic_form(parameters), torch.bmm(weights, profile[rows])


@lru_cache(maxsize=1)
def _profile_table():
    """Table of ``b_n`` and log amplitude for compiled loops."""
    return np.ascontiguousarray(profile_table(), np.float32)


def table_position(form: Tensor, forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared wavenumber ``(B, K)``, index and fraction in the table's log k, for quadratic forms ``(3, K)``."""
    plus, minus, cross = forms
    a, b, c = form[:, :, None].unbind(1)
    kappa2 = torch.addcmul(a * plus, b, minus).addcmul(c, cross).clamp_min(KAPPA_MIN**2)
    position = torch.log(kappa2).mul_(0.5 / LOG_K_STEP).sub_(float(TABLE_LOG_K[0]) / LOG_K_STEP)
    position.clamp_(0.0, len(TABLE_LOG_K) - 1.0001)
    index = position.long()
    return kappa2, index, position.sub_(index)


def quadratic_form(parameters: Tensor) -> Tensor:
    """Coefficients ``a, b, c`` of ``kappa**2`` for parameters ``(B, 7)``, shape ``(B, 3)``."""
    shear = parameters[:, _SHEAR]
    g_squared = (shear**2).sum(1, keepdim=True)
    scale = parameters[:, _R_EFF, None] ** 2 / (1.0 - g_squared)
    return torch.cat([scale * (1.0 + g_squared), 2.0 * scale * shear], 1)


def raw_jacobian_matrix(parameters: Tensor) -> Tensor:
    """Matrix from raw derivatives (model, n, a, b, c, y, x) to the seven parameters, shape ``(B, 7, 7)``.

    Row ``i`` holds the weights that sum raw images to the derivative with respect to parameter ``i``.
    """
    flux, form = parameters[:, _FLUX, None], quadratic_form(parameters)
    r_eff, shear = parameters[:, _R_EFF, None], parameters[:, _SHEAR]
    twice = 2.0 * flux / (1.0 - (shear**2).sum(1, keepdim=True))
    identity = torch.eye(2, dtype=form.dtype, device=form.device).expand(len(form), -1, -1)
    of_size = r_eff**2 * twice  # the form is the square of the size times one that the shear makes
    by_shear = (twice * shear)[:, :, None] * form[:, None]
    by_shear = by_shear + of_size[:, :, None] * torch.cat([shear[:, :, None], identity], 2)
    matrix = parameters.new_zeros(parameters.shape[0], N_PARAMETERS, N_PARAMETERS)
    matrix[:, _FLUX, RAW_INDEX["model"]] = 1.0
    matrix[:, _R_EFF, RAW_FORM] = 2.0 * flux / r_eff * form
    matrix[:, _SHEAR, RAW_FORM] = by_shear
    for row, name in ((_N, "n"), (_X, "x"), (_Y, "y")):
        matrix[:, row, RAW_INDEX[name]] = parameters[:, _FLUX]
    return matrix


def _evaluate_transform(parameters, psf, derivatives):
    """Transform on the Fourier grid: value, its derivatives by ``n`` and by ``kappa**2``, and the profile table."""
    _, _, forms = wavenumbers(psf.padded, psf.band, parameters.device, parameters.dtype)
    count, grid = parameters.shape[0], forms.shape[1:]
    coefficients, b_and_amplitude = profile_pieces(parameters[:, _N], order=1 if derivatives else 0)
    kappa2, index, t = table_position(quadratic_form(parameters), forms.flatten(1))
    c0, c1, c2, c3 = (torch.gather(coefficients[:, 0, j], 1, index) for j in range(4))
    value = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
    if not derivatives:
        return value.view(count, *grid), None, None, b_and_amplitude
    slope = torch.addcmul(c1, t, torch.addcmul(c2.mul_(2.0), t, c3, value=3.0))
    slope = slope.mul_(0.5 / LOG_K_STEP).div_(kappa2)
    c0, c1, c2, c3 = (torch.gather(coefficients[:, 1, j], 1, index) for j in range(4))
    by_n = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
    return value.view(count, *grid), by_n.view(count, *grid), slope.view(count, *grid), b_and_amplitude


def to_pixels(spectrum: Tensor, psf: PSFGrid) -> Tensor:
    """Inverse transform ``(B, C, rows, columns)`` to stamps ``(B, C, ny, nx)``."""
    (ny, nx), (ly, lx) = psf.shape, psf.padded
    columns = torch.fft.ifft(place_rows(spectrum, ly), dim=-2)[..., :ny, :]
    return torch.fft.irfft(fold_columns(columns, lx), n=lx, dim=-1)[..., :nx]


def carrier_wave(parameters: Tensor, psf: PSFGrid, psf_index: Tensor | None) -> Tensor:
    """Transform of the PSF at the galaxy's centre, shape ``(B, rows, columns)``."""
    ky, kx, _ = wavenumbers(psf.padded, psf.band, parameters.device, parameters.dtype)
    x, y = parameters[:, _X, None], parameters[:, _Y, None]
    phase_y = torch.polar(torch.ones_like(y), -y * ky[:, 0])
    phase_x = torch.polar(torch.ones_like(x), -x * kx[0])
    transform = psf.transform[:1] if psf_index is None else psf.transform[psf_index]
    return transform * phase_y[:, :, None] * phase_x[:, None, :]


def _spectra(parameters, psf, psf_index, value, by_n, slope):
    """Complex spectra of the model (and of the six raw derivatives), shape ``(B, 1 or 7, rows, columns)``."""
    ky, kx, forms = wavenumbers(psf.padded, psf.band, parameters.device, parameters.dtype)
    carrier = carrier_wave(parameters, psf, psf_index)
    real, imag = carrier.real.contiguous(), carrier.imag.contiguous()
    if by_n is None:
        return torch.complex(value * real, value * imag)[:, None]
    even = (value, by_n, slope * forms[0], slope * forms[1], slope * forms[2])
    spectra = [torch.complex(factor * real, factor * imag) for factor in even]
    minus_real = -real
    spectra += [torch.complex(factor * imag, factor * minus_real) for factor in (value * ky, value * kx)]
    return torch.stack(spectra, 1)


def render_raw(
    parameters: Tensor,
    psf: PSFGrid,
    psf_index: Tensor | None = None,
    *,
    derivatives: bool = True,
    enlarge: bool | Tensor = True,
) -> Tensor:
    """Render unit-flux models and their derivatives along the renderer's own coordinates.

    Parameters
    ----------
    parameters : Tensor
        Shape ``(B, 7)``, in the order of :data:`galmeasure.parameters.PARAMETERS`; the flux is not used.
    psf : PSFGrid
        Transforms of the PSFs, from :func:`prepare_psf`.
    psf_index : Tensor, optional
        Shape ``(B,)``, index of each galaxy's PSF in the grid; the first one by default.
    derivatives : bool, optional
        Also return the derivatives.
    enlarge : bool or Tensor, optional
        Give long, narrow galaxies a larger grid; without it their faint wings are less exact. For all, or for
        each galaxy, shape ``(B,)``.

    Returns
    -------
    Tensor
        Shape ``(B, 7, ny, nx)``: the model, then its derivatives with respect to ``n``, the three coefficients of
        ``kappa**2 = a (kx^2 + ky^2) + b (kx^2 - ky^2) + c 2 kx ky``, ``y`` and ``x``, all for unit flux
        (:func:`raw_jacobian_matrix` turns them into derivatives by parameter); the model alone, ``(B, 1, ny, nx)``,
        without ``derivatives``.
    """
    level = None if enlarge is False else _enlargement(parameters, psf.padded) * enlarge
    if level is None or not level.any():
        return _render(parameters, psf, psf_index, derivatives)
    if psf_index is None:
        psf_index = torch.zeros(len(parameters), dtype=torch.int64, device=parameters.device)
    images, order = [], []
    for position in level.unique().tolist():
        rows = torch.nonzero(level == position)[:, 0]
        grid, index = psf, psf_index[rows]
        if position:
            distinct, index = index.unique(return_inverse=True)
            grid = psf.enlarged(distinct, _ENLARGEMENTS[position - 1])
        images.append(_render(parameters[rows], grid, index, derivatives))
        order.append(rows)
    return images[0] if len(images) == 1 else torch.cat(images)[torch.cat(order).argsort()]


def is_narrow_ridge(parameters: Tensor, padded: tuple[int, int]) -> Tensor:
    """Find galaxies so elongated and long that their periodic copies are not smooth: they get a larger grid.

    Parameters
    ----------
    parameters : Tensor
        Sersic parameters, shape ``(B, 7)``.
    padded : tuple of int
        Sides of the grid, in pixels.

    Returns
    -------
    Tensor
        Boolean, shape ``(B,)``.
    """
    return _enlargement(parameters, padded) > 0


def _enlargement(parameters, padded):
    """Enlargement of the grid of each galaxy ``(B,)``: 0 for none, or one more than its position in the table."""
    g = torch.hypot(parameters[:, _G1], parameters[:, _G2])
    length = g * parameters[:, _R_EFF] * torch.sqrt((1.0 + g) / (1.0 - g).clamp_min(1e-6)) / min(padded)
    is_steep = parameters[:, _N] < _STEEP
    is_ridge = (g > RIDGE_SHEAR) & (length > torch.where(is_steep, _SHORT, RIDGE_LENGTH))
    is_long = (length > _LONG) | ((g > _NARROW) & ~is_steep)
    return is_ridge * (1 + is_long.long())


def _render(parameters, psf, psf_index, derivatives):
    """Raw images on the grid as it is."""
    loops = compiled_module("galmeasure.render.compiled", parameters)
    if loops is not None and psf.transform.dtype == torch.complex64:
        return _render_compiled(loops, parameters, psf, psf_index, derivatives)
    value, by_n, slope, b_and_amplitude = _evaluate_transform(parameters, psf, derivatives)
    form = quadratic_form(parameters)
    wrapped = wrapped_light(parameters, form, b_and_amplitude, psf.shape, psf.padded, derivatives)
    size = rows_per_chunk("spectra", wrapped.shape[1] * value[0].numel(), value.device.type)
    images = []
    for start in range(0, len(value), size):
        rows = slice(start, start + size)
        index = None if psf_index is None else psf_index[rows]
        by_shape = (by_n[rows], slope[rows]) if derivatives else (None, None)
        spectra = _spectra(parameters[rows], psf, index, value[rows], *by_shape)
        images.append(to_pixels(spectra, psf) - wrapped[rows])
    return images[0] if len(images) == 1 else torch.cat(images)


def _render_compiled(loops, parameters, psf, psf_index, derivatives):
    """Raw images on the grid as it is, by compiled loops."""
    count, n_images = len(parameters), len(RAW) if derivatives else 1
    first, weights, form, b_and_amplitude = described_profiles(parameters, derivatives=derivatives)
    centre = parameters[:, [_Y, _X]]
    tail = light_beyond(parameters[:, _N, None], form, b_and_amplitude, psf.padded, derivatives)
    kind = parameters.device, parameters.dtype
    (nodes_y, matrix_y), (nodes_x, matrix_x) = (interpolation(side, *kind) for side in psf.shape)
    nodes = parameters.new_empty(count, n_images, len(nodes_y), len(nodes_x))
    offsets = lattice(psf.padded, *kind)
    loops.wrapped_nodes(*_arrays(parameters[:, _N], form, b_and_amplitude, centre, nodes_y, nodes_x, offsets, nodes))
    nodes[:, : tail.shape[1]] += tail[:, :, None, None]
    index = torch.zeros(count, dtype=torch.int64) if psf_index is None else psf_index
    images = parameters.new_empty(count, n_images, *psf.shape)
    of_light = nodes, *_arrays(matrix_y, matrix_x.T)
    if max(psf.shape) <= _LONGEST_PRODUCT:
        _products(psf, index, (first, weights, form, centre.double()), of_light, images)
    else:
        _transforms(loops, psf, index, (first, weights, form, centre.double()), of_light, images)
    return images


def _products(psf, index, of_galaxies, of_light, images):
    """Fill short stamps by products with waves."""
    loops = compiled_module("galmeasure.render.compiled_transforms")
    *others, centre = of_galaxies
    (ny, nx), (nodes, *matrices) = psf.shape, of_light
    galaxies = _arrays(*others, centre - centre.new_tensor([ny // 2, nx // 2]))
    waves = _waves(psf.shape, psf.padded, *psf.transform.shape[1:])
    arguments = _compiled_table(), *galaxies, *_of_grid(psf, index), psf.padded[0], *waves
    loops.model_stamps(*arguments, *_arrays(nodes), *matrices, images.numpy())


def _transforms(loops, psf, index, of_galaxies, of_light, images):
    """Fill long stamps by fast Fourier transforms."""
    (ny, _), (ly, lx), (nodes, *matrices) = psf.shape, psf.padded, of_light
    n_images, columns = images.shape[1], min(psf.transform.shape[2], lx // 2 + 1)
    size = rows_per_chunk("spectra", n_images * ly * columns)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        galaxies = _arrays(*(column[rows] for column in of_galaxies))
        spectrum = images.new_empty(len(galaxies[0]), n_images, ly, columns, 2)
        loops.spectra(_compiled_table(), *galaxies, *_of_grid(psf, index[rows]), spectrum.flatten(3).numpy())
        lines = torch.fft.ifft(torch.view_as_complex(spectrum), dim=-2)[..., :ny, :]
        periodic = torch.fft.irfft(lines, n=lx, dim=-1)
        loops.subtract_wrapped(periodic.numpy(), nodes[rows].numpy(), *matrices, images[rows].numpy())


def _of_grid(psf, index):
    """What compiled loops need of PSFs and their grid."""
    ky, kx, _ = wavenumbers(psf.padded, psf.band, index.device, torch.float64)
    arrays = _arrays(torch.view_as_real(psf.transform), index, ky[:, 0], kx[0])
    return *arrays, _aliases(len(ky), psf.padded[0]), psf.padded[1], KAPPA_MIN**2


@lru_cache(maxsize=64)
def _waves(shape, padded, rows, columns):
    """Waves about the middle pixel: cosines and sines in y, and waves in x by real and imaginary part of a column."""
    (ny, nx), (ly, lx) = shape, padded
    angle = 2.0 * np.pi / ly * np.arange(ny // 2 + 1)[:, None] * np.arange(min(rows, ly) // 2 + 1)
    sides = [(0, -size % multiple) for size, multiple in zip(angle.shape, (4, 4), strict=True)]
    cosines, sines = (np.pad(wave(angle) / ly, sides).astype(np.float32) for wave in (np.cos, np.sin))
    column = np.arange(min(columns, lx // 2 + 1))
    angle = 2.0 * np.pi / lx * column[:, None] * (np.arange(nx) - nx // 2)
    often = np.where((column == 0) | (2 * column == lx), 1.0, 2.0)[:, None] / lx
    waves = np.stack([often * np.cos(angle), -often * np.sin(angle)], 1).reshape(-1, nx)
    return cosines, sines, np.pad(waves, [(0, -len(waves) % 8), (0, 0)]).astype(np.float32)


@lru_cache(maxsize=64)
def _aliases(rows, side):
    """Row of a period for each wavenumber ``0 .. h - 1, -h .. -1`` of a band."""
    order = np.arange(rows)
    return np.where(order < rows // 2, order, order - rows) % side


def _arrays(*tensors):
    """Contiguous arrays that share the memory of tensors, or copies of these."""
    return tuple(tensor.contiguous().numpy() for tensor in tensors)


def render_sersic(
    parameters: Tensor, psf: PSFGrid, psf_index: Tensor | None = None, *, jacobian: bool = False, enlarge: bool = True
) -> Tensor | tuple[Tensor, Tensor]:
    """Render Sersic models convolved with a PSF.

    Parameters
    ----------
    parameters : Tensor
        Shape ``(B, 7)``: flux, n, r_eff (circularised, pixels), g1, g2, x, y (pixels, 0 is the centre of the first).
    psf : PSFGrid
        Transforms of the PSFs, from :func:`prepare_psf`.
    psf_index : Tensor, optional
        Shape ``(B,)``, index of each galaxy's PSF in the grid; the first one by default.
    jacobian : bool, optional
        Also return the derivatives by the seven parameters.
    enlarge : bool, optional
        Use a larger grid for narrow ridges, as in :func:`render_raw`.

    Returns
    -------
    model : Tensor
        Shape ``(B, ny, nx)``, flux per pixel.
    jacobian : Tensor
        Shape ``(B, 7, ny, nx)``; only with ``jacobian=True``.

    Notes
    -----
    The model can be differentiated by autograd as well; the analytic Jacobian is cheaper.

    Examples
    --------
    >>> import torch
    >>> from galmeasure.render import prepare_psf, render_sersic
    >>> y, x = torch.meshgrid(torch.arange(25.0) - 12, torch.arange(25.0) - 12, indexing="ij")
    >>> star = torch.exp(-(x**2 + y**2) / 8)
    >>> psf = prepare_psf((star / star.sum())[None], (32, 32))
    >>> model = render_sersic(torch.tensor([[100.0, 1.0, 3.0, 0.1, 0.0, 15.5, 15.5]]), psf)
    >>> print(tuple(model.shape), round(float(model.sum())))
    (1, 32, 32) 100
    """
    raw = render_raw(parameters, psf, psf_index, derivatives=jacobian, enlarge=enlarge)
    model = parameters[:, _FLUX, None, None] * raw[:, RAW_INDEX["model"]]
    if not jacobian:
        return model
    return model, torch.einsum("bij,bjyx->biyx", raw_jacobian_matrix(parameters), raw)
