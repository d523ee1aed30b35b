"""The baseline fit of the study this package grew from: GalSim models and a quasi-Newton minimiser, to compare with."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeResult, minimize

from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.base import BatchMeasurement, SersicFitterBase
from galmeasure.flags import Flag
from galmeasure.parameters import PARAMETER_INDEX

__all__ = ["GalSimSersicFitter"]

_NAMES = ("flux", "n", "r_eff", "g1", "g2")
_PIXEL_SCALE = 0.23  # arcsec, of the study's stamps
_BOUNDS = {
    "flux": (0.3e5, 4e5),
    "n": (0.5, 6.0),
    "r_eff": (0.1 / _PIXEL_SCALE, 0.6 / _PIXEL_SCALE),
    "g1": (-0.6, 0.6),
    "g2": (-0.6, 0.6),
}
_START = {"n": 3.0, "r_eff": 0.3 / _PIXEL_SCALE, "g1": 0.0, "g2": 0.0}
_N_GALSIM = (0.3, 6.2)
_BOUND_MARGIN = 1e-3  # of the distance between the bounds
_ONE_AT_A_TIME = threading.Lock()  # GalSim's caches are not made for threads


@dataclass(frozen=True, kw_only=True)
class GalSimSersicFitter(SersicFitterBase):
    """Baseline fit of the study: GalSim model, plain chi-squared, L-BFGS-B within bounds; for comparison only.

    The centre is fixed on the centre of the stamp. A fit takes about a second, and its bounds are those of the
    study's simulated galaxies. Use `~galmeasure.LSQSersicFitter` to measure.

    Parameters
    ----------
    bounds : dict, optional
        Lower and upper bound of ``flux`` (unit of the cutouts), ``n``, ``r_eff`` (pixels), ``g1``, ``g2``, where
        they shall differ from the study's: flux 0.3e5 to 4e5, n 0.5 to 6, r_eff 0.1 to 0.6 arcsec at its 0.23
        arcsec per pixel (0.435 to 2.609 pixels), shears -0.6 to 0.6.
    rescale : bool, optional
        Minimise in variables that run from 0 to 1 between the bounds. The study did not: the flux, in electrons,
        hardly moves from the sum of the pixels, because the minimiser takes all variables to be of order one.
    max_iter : int, optional
        Most iterations of the minimiser.
    batch_size : int, optional
        Cutouts prepared at one time; chosen by their size by default.

    Raises
    ------
    ImportError
        If GalSim is not installed.
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    Notes
    -----
    It starts from the sum of the pixels, n = 3, r_eff = 0.3 arcsec (1.304 pixels) and a round galaxy, or from
    ``init_params``, moved within the bounds. Chi-squared has the variance ``error**2 + max(pixel, 0) / gain``, or
    ``error**2`` without a gain. The study gave no errors: covariance and ``<p>_err`` are NaN. Flags set here are
    ``failed`` (GalSim could not draw the model), ``not_converged`` and ``at_bound``.

    Examples
    --------
    >>> from galmeasure.evaluation import GalSimSersicFitter  # doctest: +SKIP
    >>> table = GalSimSersicFitter().fit(images, psf, error=200.0)  # doctest: +SKIP
    """

    bounds: dict = field(default_factory=dict)
    rescale: bool = False
    max_iter: int = 1000
    batch_size: int | None = None
    device: ClassVar[str] = "cpu"
    _has_errors: ClassVar[bool] = False
    crb: ClassVar[bool] = False
    covariance: ClassVar[bool] = False

    def __post_init__(self):
        """Check the configuration."""
        super().__post_init__()
        _import_galsim()
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int) or self.max_iter < 1:
            msg = f"max_iter must be a positive integer, not {self.max_iter!r}"
            raise ValueError(msg)
        _check_bounds(self.bounds)

    def measure(self, batch: CutoutBatch, init: npt.NDArray[np.float64]) -> BatchMeasurement:
        """Fit one batch; see `~galmeasure.fitters.SersicFitterBase.measure`."""
        galsim = _import_galsim()
        measurement = BatchMeasurement.empty(len(batch))
        step = 1.0 / batch.psf_oversampling
        psfs = [galsim.InterpolatedImage(galsim.Image(np.array(psf), scale=step), flux=psf.sum()) for psf in batch.psf]
        for row in np.flatnonzero(batch.good.any(axis=(1, 2))):
            fit = _Fit(batch, row, psfs[batch.psf_index[row]])
            try:
                with _ONE_AT_A_TIME:
                    self._fit_one(fit, init[row], measurement, row)
            except galsim.GalSimError:
                measurement.flags[row] |= Flag.FAILED
        return measurement

    def _fit_one(self, fit, init, measurement, row):
        lower, upper = np.array([{**_BOUNDS, **self.bounds}[name] for name in _NAMES], dtype=float).T
        start = fit.start(init, lower, upper)
        measurement.init[row] = fit.in_batch_units(start)
        shift, unit = (lower, upper - lower) if self.rescale else (0.0, 1.0)
        solution: OptimizeResult = minimize(
            lambda x: fit.chi2(shift + unit * x),
            (start - shift) / unit,
            method="L-BFGS-B",
            bounds=list(zip((lower - shift) / unit, (upper - shift) / unit, strict=True)),
            options={"maxiter": self.max_iter},
        )
        values = shift + unit * solution.x
        margin = _BOUND_MARGIN * (upper - lower)
        measurement.values[row] = fit.in_batch_units(values)
        model = fit.model(values)
        n_pixels = np.count_nonzero(fit.weight)
        measurement.snr[row] = np.sqrt((fit.weight * model**2).sum())
        measurement.chi2_reduced[row] = fit.chi2(values) / max(n_pixels - len(_NAMES), 1)
        measurement.n_pixels_fit[row] = n_pixels
        measurement.flags[row] |= Flag.AT_BOUND * bool(((values < lower + margin) | (values > upper - margin)).any())
        measurement.flags[row] |= Flag.NOT_CONVERGED * (not solution.success)


class _Fit:
    """One galaxy of a batch in the unit of the input: its pixels, its model and their chi-squared."""

    def __init__(self, batch, row, psf):
        self.shape = tuple(int(side) for side in batch.shape[row])
        ny, nx = self.shape
        self.scale, self.psf = batch.scale[row], psf
        image = batch.image[row, :ny, :nx].astype(float)
        error = np.broadcast_to(batch.error, batch.image.shape)[row, :ny, :nx].astype(float)
        shot = 0.0 if batch.gain is None else np.maximum(image, 0.0) / batch.gain[row]
        self.image = image * self.scale
        self.weight = batch.good[row, :ny, :nx] / ((error**2 + shot) * self.scale**2)

    def start(self, init, lower, upper):
        """Starting values within the bounds: those given, or the study's."""
        start = np.array([self.image[self.weight > 0].sum(), *_START.values()])
        given = init[: len(_NAMES)].copy()
        given[PARAMETER_INDEX["flux"]] *= self.scale
        return np.clip(np.where(np.isfinite(given), given, start), lower, upper)

    def in_batch_units(self, values):
        """All seven parameters, the centre included."""
        ny, nx = self.shape
        return np.array([values[0] / self.scale, *values[1:], (nx - 1) / 2.0, (ny - 1) / 2.0])

    def model(self, values):
        """Image of the model."""
        galsim = _import_galsim()
        flux, n, r_eff, g1, g2 = (float(value) for value in values)
        galaxy = galsim.Sersic(n, half_light_radius=r_eff, flux=flux).shear(g1=g1, g2=g2)
        ny, nx = self.shape
        image = galsim.Convolve(galaxy, self.psf).drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", dtype=float)
        return image.array

    def chi2(self, values):
        """Chi-squared of the model."""
        return float((self.weight * (self.image - self.model(values)) ** 2).sum())


def _import_galsim():
    try:
        import galsim
    except ImportError as err:
        msg = "GalSimSersicFitter needs GalSim: pip install 'galmeasure[train]'"
        raise ImportError(msg) from err
    return galsim


def _check_bounds(bounds):
    """Raise if bounds are not pairs of increasing numbers that GalSim can draw."""
    if not isinstance(bounds, Mapping):
        msg = f"bounds must be a dict of parameter names and pairs of numbers, not {type(bounds).__name__}"
        raise TypeError(msg)
    for name, pair in bounds.items():
        if name not in _NAMES:
            msg = f"bounds names {name!r}, which is not one of {', '.join(_NAMES)}"
            raise ValueError(msg)
        try:
            lower, upper = (float(value) for value in pair)
        except (TypeError, ValueError):
            msg = f"bounds[{name!r}] must be a pair of numbers, not {pair!r}"
            raise TypeError(msg) from None
        if not (np.isfinite([lower, upper]).all() and lower < upper):
            msg = f"bounds[{name!r}] must be finite and increase, not {pair!r}"
            raise ValueError(msg)
    whole = {**_BOUNDS, **bounds}
    if whole["n"][0] < _N_GALSIM[0] or whole["n"][1] > _N_GALSIM[1]:
        msg = f"bounds['n'] must lie between {_N_GALSIM[0]} and {_N_GALSIM[1]}, the indices that GalSim draws"
        raise ValueError(msg)
    if whole["r_eff"][0] <= 0:
        msg = f"bounds['r_eff'] must be positive, not {whole['r_eff']!r}"
        raise ValueError(msg)
    if np.hypot(*(np.abs(whole[name]).max() for name in ("g1", "g2"))) >= 1.0:
        msg = "bounds['g1'] and bounds['g2'] must keep |g| below 1"
        raise ValueError(msg)
