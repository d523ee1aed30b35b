"""Model galaxies put into blank sky, whose measurements say how good an estimator is on that image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.flags import Flag
from galmeasure.likelihood import flux_of_snr, signal_to_noise
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS
from galmeasure.priors import Disc, Prior, Range, get_prior
from galmeasure.render import render_sersic
from galmeasure.render.grid import prepare_psfs
from galmeasure.results.columns import GALAXY_FORMS, TRUE, find_column
from galmeasure.results.frame import Frame, plain_numbers
from galmeasure.utils.chunks import chunk_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from galmeasure.cutouts import Cutouts
    from galmeasure.io import SkySource

__all__ = ["GalaxiesLike", "add_galaxies", "galaxies_of_prior", "inject_galaxies"]

_SNR = (10.0, 300.0)
_SNR_FAINTEST = 5.0
_INDEX = (0.5, 6.0)
_SHEAR = 0.7
_SMALLEST = 0.25  # half-light radius over the FWHM of the PSF; smaller ones are stars
_LARGEST = 0.125  # half-light radius over the side of the stamp
_CORE = (5.0, 2.0)  # pixels, and widths of the PSF
_ROUNDS = 50  # of drawing again what has another S/N
_LEAST_ROWS = 20  # of a table, for a kernel density estimate in four dimensions
_LARGEST_SHEAR = 0.9
_MANY_ELECTRONS = 1e12  # beyond, Poisson noise is drawn as Gaussian


_FLUX = PARAMETER_INDEX["flux"]
_CENTRE = [PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]]
_SHAPE = ("flux", "n", "r_eff", "g1", "g2")


@dataclass(frozen=True, eq=False)
class GalaxiesLike:
    """Galaxies like those of a table: rows are drawn again, each with a small random change.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Result of a fitter, or truths: columns ``<p>_fit``, ``true_<p>`` or ``<p>`` of ``flux``, ``n``, ``r_eff``,
        ``g1`` and ``g2``. Rows with a flag, other than that of an estimated error, and those with a flux that is not
        positive are left out.
    snr : tuple of float, optional
        Galaxies whose signal-to-noise ratio would be outside are drawn again.
    smoothing : float, optional
        Width of the change, in units of the bandwidth of a kernel density estimate (Scott 1992), in the logarithms of
        ``flux``, ``n`` and ``r_eff`` and in the modulus of the shear; its angle is drawn at random.

    Raises
    ------
    ValueError
        If a column is missing, or fewer than 20 rows can be used.
    """

    table: Table
    snr: tuple[float, float] = (_SNR_FAINTEST, np.inf)
    smoothing: float = 0.5

    def __post_init__(self):
        """Check the table."""
        self.columns()

    def columns(self, frame: Frame | None = None) -> dict[str, npt.NDArray[np.float64]]:
        """Return the usable rows.

        Parameters
        ----------
        frame : Frame, optional
            Frame whose flux unit and pixels the values get. By default they stay in the units of the table.

        Returns
        -------
        dict of str to ndarray
            ``flux``, ``n``, ``r_eff``, ``g1`` and ``g2`` of the M usable rows, each of shape ``(M,)``.

        Raises
        ------
        ValueError
            If a column is missing, a unit does not convert, or fewer than 20 rows can be used.
        """
        values = {name: self._column(name, frame) for name in _SHAPE}
        usable = np.all([np.isfinite(column) for column in values.values()], axis=0)
        usable &= np.all([values[name] > 0 for name in ("flux", "n", "r_eff")], axis=0)
        usable &= np.hypot(values["g1"], values["g2"]) < 1.0
        if "flags" in self.table.colnames:
            usable &= (np.asarray(self.table["flags"]) & ~int(Flag.ERROR_ESTIMATED)) == 0
        if usable.sum() < _LEAST_ROWS:
            msg = (
                f"like: only {int(usable.sum())} rows can be used; {_LEAST_ROWS} are needed, measured and without flags"
            )
            raise ValueError(msg)
        return {name: column[usable] for name, column in values.items()}

    def sample(self, count: int, rng: np.random.Generator, cutouts: Cutouts) -> dict[str, npt.NDArray[np.float64]]:
        """Draw parameters in the flux unit and pixels of cutouts.

        Parameters
        ----------
        count : int
            Number of galaxies to draw.
        rng : numpy.random.Generator
            Source of the random numbers.
        cutouts : Cutouts
            Cutouts whose unit and median pixel scale are used.

        Returns
        -------
        dict of str to ndarray
            ``flux``, ``n``, ``r_eff``, ``g1`` and ``g2``, each of shape ``(count,)``.
        """
        frame = Frame.of(cutouts)
        if frame.pixel_scale is not None:
            frame = replace(frame, pixel_scale=np.float64(np.median(frame.pixel_scale)))
        rows = self.columns(frame)
        logarithms = [np.log(rows[name]) for name in ("flux", "n", "r_eff")]
        points = np.column_stack([*logarithms, np.hypot(rows["g1"], rows["g2"])])
        n_points, dimension = points.shape
        width = self.smoothing * n_points ** (-1.0 / (dimension + 4.0))
        drawn = points[rng.integers(n_points, size=count)]
        drawn = drawn + width * rng.multivariate_normal(np.zeros(dimension), np.cov(points.T), size=count)
        log_flux, log_n, log_r_eff, g = drawn.T
        limits = PARAMETERS[PARAMETER_INDEX["n"]]
        g, angle = np.clip(np.abs(g), 0.0, _LARGEST_SHEAR), rng.uniform(0.0, 2.0 * np.pi, count)
        return {
            "flux": np.exp(log_flux),
            "n": np.clip(np.exp(log_n), limits.lower, limits.upper),
            "r_eff": np.exp(log_r_eff),
            "g1": g * np.cos(angle),
            "g2": g * np.sin(angle),
        }

    def _column(self, name, frame):
        """Column of a parameter in stamp pixels and the flux unit of a frame; without one, as it is in the table."""
        label = find_column(self.table, name, GALAXY_FORMS)
        if label is None:
            msg = f"like has no column {name}_fit"
            raise ValueError(msg)
        column, unit = self.table[label], self.table[label].unit
        values = plain_numbers(column, f"like[{label!r}]")
        if frame is None or unit is None or unit == u.dimensionless_unscaled:
            return values  # radii without a unit are in pixels
        if (name == "flux" and frame.unit is None) or (name == "r_eff" and frame.pixel_scale is None):
            return values  # there is nothing to convert to
        return frame.values(name, u.Quantity(values, unit), f"like[{label!r}]")


def galaxies_of_prior(
    name: str = "survey",
    *,
    psf_fwhm: float,
    size: int = 64,
    snr: tuple[float, float] | None = None,
    n: tuple[float, float] | None = None,
    r_eff: tuple[float, float] | None = None,
) -> Prior:
    """Return a prior of galaxies to inject: that of a network's training, limited to galaxies that surveys measure.

    Parameters
    ----------
    name : str, optional
        Name of a prior, see `galmeasure.priors.get_prior`. Default "survey".
    psf_fwhm : float
        FWHM of the PSF in pixels.
    size : int, optional
        Side of the stamps in pixels. Default 64.
    snr, n, r_eff : tuple of float, optional
        Ranges instead of the default ones, ``r_eff`` in pixels. By default S/N is 10 to 300, n 0.5 to 6, and r_eff a
        quarter of the PSF's width to an eighth of the stamp, as far as the prior reaches.

    Returns
    -------
    Prior
        Uniform in the logarithms of S/N and ``r_eff`` and in ``n``; the centre is uniform within a pixel.

    Raises
    ------
    ValueError
        If a range is empty, or beyond what can be measured.

    Examples
    --------
    >>> from galmeasure.evaluation import galaxies_of_prior
    >>> galaxies_of_prior(psf_fwhm=4.0, snr=(20, 50)).r_eff
    Range(lower=1.0, upper=8.0, log=True)
    """
    prior = get_prior(name)
    limits = PARAMETERS[PARAMETER_INDEX["n"]]
    width = psf_fwhm if np.isfinite(psf_fwhm) else 0.0
    bounds = {"snr": (1.0, np.inf), "n": (limits.lower, limits.upper), "r_eff": (0.05, size)}
    given = {"snr": snr, "n": n, "r_eff": r_eff}
    default = {"snr": _SNR, "n": _INDEX, "r_eff": (_SMALLEST * width, _LARGEST * size)}
    ranges = {}
    for key, (low, high) in bounds.items():
        prior_range = getattr(prior, key)
        smallest, largest = default[key]
        lower, upper = given[key] or (max(prior_range.lower, smallest), min(prior_range.upper, largest))
        if not low <= lower < upper <= high:
            unit = " pixels" if key == "r_eff" else ""
            msg = f"{key} must be a range within {low:g} to {high:g}{unit}, not {lower:.4g} to {upper:.4g}"
            raise ValueError(msg)
        ranges[key] = Range(float(lower), float(upper), log=key != "n")
    shear = Disc(min(prior.shear.g_max, _SHEAR), concentration=2.0)
    return replace(prior, name=f"{name}, injected", shear=shear, centre=0.5, electrons=None, populations=(), **ranges)


def inject_galaxies(
    sky: SkySource,
    count: int,
    galaxies: Prior | GalaxiesLike | None = None,
    *,
    core: float | None = None,
    seed: int | Sequence[int] = 0,
    first: int = 1,
) -> tuple[Cutouts, QTable]:
    """Put model galaxies into blank sky, each into its own copy of it.

    Parameters
    ----------
    sky : galmeasure.io.SkySource
        Image with its PSF and noise.
    count : int
        Number of galaxies to inject.
    galaxies : Prior or GalaxiesLike, optional
        Distribution of the galaxies; by default `galaxies_of_prior` for the PSF in the middle of the image.
    core : float, optional
        Radius in pixels around a galaxy without another source; by default 5, or twice the FWHM of the PSF.
    seed : int or sequence of int, optional
        Seed of all random numbers. Default 0.
    first : int, optional
        Number of the first galaxy in the column ``id``. Default 1.

    Returns
    -------
    cutouts : Cutouts
        Stamps with galaxies, cut, masked and with the PSFs that they would have if they were in the image.
    truth : `~astropy.table.QTable`
        True parameters, see `add_galaxies`.

    Raises
    ------
    CatalogError
        If there is too little blank sky.
    ValueError
        If no galaxies have a signal-to-noise ratio within the limits.
    """
    rng = np.random.default_rng(seed)
    if galaxies is None:
        galaxies = galaxies_of_prior(psf_fwhm=sky_psf_fwhm(sky), size=sky.size)
    positions, _ = sky.blank_positions(count, core_radius(sky) if core is None else core, rng)
    source = sky.at(positions, np.arange(first, first + count))
    cutouts = source.read(np.arange(count))
    return add_galaxies(cutouts, galaxies, rng, positions=positions)


def core_radius(sky: SkySource) -> float:
    """Return the default radius around a galaxy without another source.

    Parameters
    ----------
    sky : galmeasure.io.SkySource
        Image with its PSF and noise.

    Returns
    -------
    float
        Radius around a galaxy in pixels.
    """
    width = sky_psf_fwhm(sky)
    return max(_CORE[0], _CORE[1] * width) if np.isfinite(width) else _CORE[0]


def sky_psf_fwhm(sky: SkySource) -> float:
    """Return the width of the PSF in the middle of an image.

    Parameters
    ----------
    sky : galmeasure.io.SkySource
        Image with its PSF and noise.

    Returns
    -------
    float
        FWHM in pixels; NaN if it cannot be measured.
    """
    ny, nx = sky.shape
    middle = sky.at([[0.5 * (nx - 1), 0.5 * (ny - 1)]]).read([0])
    return float(next(middle.batches()).psf_fwhm[0])


def add_galaxies(
    cutouts: Cutouts,
    galaxies: Prior | GalaxiesLike,
    rng: np.random.Generator,
    *,
    positions: npt.ArrayLike | None = None,
) -> tuple[Cutouts, QTable]:
    """Add a model galaxy to each cutout, with its shot noise where the gain is known.

    Parameters
    ----------
    cutouts : Cutouts
        Stamps of sky, which are not changed.
    galaxies : Prior or GalaxiesLike
        Distribution of the galaxies.
    rng : numpy.random.Generator
        Source of the random numbers.
    positions : array_like, optional
        Centres x, y in the parent image, shape ``(N, 2)``; by default random within half a pixel of the stamp's centre.

    Returns
    -------
    cutouts : Cutouts
        Sums of sky and galaxies.
    truth : `~astropy.table.QTable`
        ``id`` and ``true_<p>`` of the seven parameters in the units and frame of a result table, ``true_snr`` (with
        the error map, on the pixels that are not masked) and ``true_psf_fwhm``. A stamp that cannot be
        measured gets no galaxy, and NaN.

    Raises
    ------
    ValueError
        If no galaxies have a signal-to-noise ratio within the limits.
    """
    count = len(cutouts)
    if positions is None:
        centre = 0.5 * (cutouts.shapes[:, ::-1] - 1) + rng.uniform(-0.5, 0.5, (count, 2))
    else:
        centre = np.asarray(positions, dtype=float) - cutouts.origin
    truth, snr, width = np.full((count, N_PARAMETERS), np.nan), np.full(count, np.nan), np.full(count, np.nan)
    images = [None] * count
    for batch in cutouts.batches(chunk_size("injected pixels")):
        for rows, grid, psf_index in _by_psf(batch):
            _fill(batch, rows, grid, psf_index, galaxies, centre, rng, cutouts, truth, snr, images)
        width[batch.index] = batch.psf_fwhm[batch.psf_index]
    images = [cutouts.image(i) if image is None else image for i, image in enumerate(images)]
    new = cutouts._with_images(np.stack(images) if len({image.shape for image in images}) == 1 else images)
    return new, _truth_table(cutouts, truth, snr, width)


def _by_psf(batch):
    """Yield usable rows of a batch in chunks, with a grid of their PSFs and the index of each row's PSF in it."""
    usable = np.flatnonzero(batch.good.any(axis=(1, 2)))
    for start in range(0, len(usable), chunk_size("injected stamps")):
        rows = usable[start : start + chunk_size("injected stamps")]
        indices, local = np.unique(batch.psf_index[rows], return_inverse=True)
        images = torch.from_numpy(np.stack([batch.psf[index] for index in indices]))
        options = {"oversampling": batch.psf_oversampling, "dtype": torch.float64}
        for members, grid in prepare_psfs(images, batch.image.shape[1:], **options):
            members = members.numpy()
            in_grid = np.isin(local.reshape(-1), members)
            psf_index = np.searchsorted(members, local.reshape(-1)[in_grid])
            yield rows[in_grid], grid, torch.from_numpy(psf_index)


def _fill(batch, rows, grid, psf_index, galaxies, centre, rng, cutouts, truth, snr, images):
    """Draw galaxies for rows until their S/N lie within the limits, and add them to the images."""
    error = np.broadcast_to(batch.error, batch.image.shape)[rows].astype(float)
    error, good = torch.from_numpy(error), torch.from_numpy(batch.good[rows])
    gain = None if batch.gain is None else torch.from_numpy(batch.gain[rows].astype(float))
    index, scale = batch.index[rows], batch.scale[rows]
    parameters = np.full((len(rows), N_PARAMETERS), np.nan)
    model, snr_drawn = torch.zeros_like(error), np.full(len(rows), np.nan)
    limits = (galaxies.snr.lower, galaxies.snr.upper) if isinstance(galaxies, Prior) else galaxies.snr
    left = np.arange(len(rows))
    for _ in range(_ROUNDS):
        drawn = _draw(galaxies, len(left), rng, cutouts, scale[left])
        drawn[:, _CENTRE] = centre[index[left]]
        unit = drawn.copy()
        unit[:, _FLUX] = 1.0
        light = render_sersic(torch.from_numpy(unit), grid, psf_index[left])
        noise = error[left], good[left], None if gain is None else gain[left]
        if isinstance(galaxies, Prior):
            target = torch.from_numpy(np.exp(rng.uniform(*np.log(limits), len(left))))
            drawn[:, _FLUX] = flux_of_snr(light, target, *noise).numpy()
        light = light * torch.from_numpy(drawn[:, _FLUX])[:, None, None]
        ratio = signal_to_noise(light, *noise).numpy()
        fits = (ratio >= 0.999 * limits[0]) & (ratio <= 1.001 * limits[1])
        parameters[left[fits]], model[left[fits]], snr_drawn[left[fits]] = drawn[fits], light[fits], ratio[fits]
        left = left[~fits]
        if not len(left):
            break
    else:
        msg = f"snr: hardly any galaxies have a signal-to-noise ratio of {limits[0]:g} to {limits[1]:g} in this image"
        raise ValueError(msg)
    light = _noisy(model.numpy(), None if gain is None else gain.numpy(), rng)
    for i, row in enumerate(index):
        ny, nx = cutouts.shapes[row]
        images[row] = cutouts.image(row) + scale[i] * light[i, :ny, :nx]
    parameters[:, _FLUX] *= scale
    truth[index], snr[index] = parameters, snr_drawn


def _draw(galaxies, count, rng, cutouts, scale):
    """Parameters ``(count, 7)`` in units of the batch, centres and (of priors) fluxes still open."""
    drawn = np.ones((count, N_PARAMETERS))
    if isinstance(galaxies, Prior):
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        drawn[:] = galaxies.sample(count, (1, 1), generator=generator).double().numpy()
    else:
        for name, values in galaxies.sample(count, rng, cutouts).items():
            drawn[:, PARAMETER_INDEX[name]] = values
        drawn[:, _FLUX] /= scale
    return drawn


def _noisy(model, gain, rng):
    """Models with the Poisson noise of their electrons, if there is a gain."""
    if gain is None:
        return model
    electrons = np.maximum(model, 0.0) * gain[:, None, None]
    few = electrons < _MANY_ELECTRONS
    noise = rng.poisson(np.where(few, electrons, 0.0)) - electrons
    noise = np.where(few, noise, np.sqrt(electrons) * rng.normal(size=model.shape))
    return model + noise / gain[:, None, None]


def _truth_table(cutouts, truth, snr, width):
    """Truths in the units and frame of a result table."""
    table, frame = QTable({"id": np.array(cutouts.ids)}), Frame.of(cutouts)
    for name, index in PARAMETER_INDEX.items():
        table[TRUE.format(name)] = frame.column(name, truth[:, index])
    table[TRUE.format("snr")] = snr
    table[TRUE.format("psf_fwhm")] = frame.column("psf_fwhm", width)
    return table
