"""What every estimator shares: prepare, measure, assemble; and model images from a result table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.table import QTable, Table

from galmeasure.calibration import QuantileCalibration
from galmeasure.cutouts import Cutouts
from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.blank import fail_blank, flag_unknown_errors
from galmeasure.fitters.images import make_model_images, make_residual_images
from galmeasure.fitters.threads import batch_division, map_batches, single_threaded
from galmeasure.flags import Flag
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETERS
from galmeasure.results.columns import fixed_values, initial_values
from galmeasure.results.table import Measurement, build_table
from galmeasure.utils.chunks import chunk_size
from galmeasure.utils.peer_arguments import refuse_words
from galmeasure.utils.progress import BatchProgress, progress

__all__ = ["BatchMeasurement", "SersicFitterBase"]

_BRIGHT = 200.0  # S/N at which 0.5 % of the flux is its error
_ARGUMENTS = (
    "cutouts", "psf", "error", "mask", "gain", "pixel_scale", "wcs", "psf_oversampling", "psf_flux",
    "psf_includes_pixel", "positions", "init_params", "ids", "zero_point", "progress_bar",
)  # fmt: skip
_METHOD = "U24"
_REASON = "U10"


@dataclass
class BatchMeasurement:
    """Measurements of one batch, in the units of the batch and pixels of the stamp.

    Parameters
    ----------
    values, init : ndarray, shape (B, 7)
        Parameters, and where the fit began; NaN where there is no measurement.
    covariance : ndarray, shape (B, 7, 7)
        Covariance matrix of the parameters.
    snr, chi2_reduced : ndarray, shape (B,)
        Of the model at ``values``.
    n_pixels_fit, flags : ndarray of int, shape (B,)
        Pixels used and bits found while measuring.
    background, background_err : ndarray, shape (B,), or None
        Constant per pixel that was fitted, and its error.
    crb : ndarray, shape (B, 7), or None
        Cramer-Rao bounds of the parameters.
    quantiles : ndarray, shape (B, 3, 7), or None
        16, 50 and 84 % quantiles.
    ess, log_evidence : ndarray, shape (B,), or None
        Effective draws and evidence of exact posteriors.
    n_draws : ndarray of int, shape (B,), or None
        Draws of exact posteriors.
    ood_score : ndarray, shape (B,), or None
        How unlike galaxies of the training domain each looks.
    ood_reason : ndarray of str, shape (B,), or None
        In what it is most unlike them.
    point_like : ndarray, shape (B,), or None
        Posterior probability that the half-light radius is below a tenth of the PSF's width.
    method : ndarray of str, shape (B,), or None
        What measured each row; None: the fitter's ``method``.
    """

    values: np.ndarray
    init: np.ndarray
    covariance: np.ndarray
    snr: np.ndarray
    chi2_reduced: np.ndarray
    n_pixels_fit: np.ndarray
    flags: np.ndarray
    background: np.ndarray | None = None
    background_err: np.ndarray | None = None
    crb: np.ndarray | None = None
    quantiles: np.ndarray | None = None
    ess: np.ndarray | None = None
    log_evidence: np.ndarray | None = None
    n_draws: np.ndarray | None = None
    ood_score: np.ndarray | None = None
    ood_reason: np.ndarray | None = None
    point_like: np.ndarray | None = None
    method: np.ndarray | None = None

    @classmethod
    def empty(
        cls,
        count: int,
        *,
        background: bool = False,
        crb: bool = False,
        quantiles: bool = False,
        draws: bool = False,
        ood: bool = False,
        method: bool = False,
    ) -> Self:
        """Nothing measured yet: NaN and no flags."""

        def nan(*shape):
            return np.full((count, *shape), np.nan)

        return cls(
            values=nan(N_PARAMETERS),
            init=nan(N_PARAMETERS),
            covariance=nan(N_PARAMETERS, N_PARAMETERS),
            snr=nan(),
            chi2_reduced=nan(),
            n_pixels_fit=np.zeros(count, dtype=np.int64),
            flags=np.zeros(count, dtype=np.int64),
            background=nan() if background else None,
            background_err=nan() if background else None,
            crb=nan(N_PARAMETERS) if crb else None,
            quantiles=nan(3, N_PARAMETERS) if quantiles else None,
            ess=nan() if draws else None,
            log_evidence=nan() if draws else None,
            n_draws=np.zeros(count, dtype=np.int64) if draws else None,
            ood_score=nan() if ood else None,
            ood_reason=np.full(count, "", dtype=_REASON) if ood else None,
            point_like=nan() if quantiles else None,
            method=np.full(count, "", dtype=_METHOD) if draws or method else None,
        )

    def in_flux_units(self, scale: npt.NDArray[np.float64]) -> None:
        """Multiply what is a flux by ``scale`` ``(B,)``, in place."""
        flux = PARAMETER_INDEX["flux"]
        for array in (self.values, self.init, self.crb):
            if array is not None:
                array[:, flux] *= scale
        if self.quantiles is not None:
            self.quantiles[:, :, flux] *= scale[:, None]
        self.covariance[:, flux, :] *= scale[:, None]
        self.covariance[:, :, flux] *= scale[:, None]
        for array in (self.background, self.background_err):
            if array is not None:
                array *= scale

    def put(self, index: npt.NDArray[np.int64], measurement: "BatchMeasurement") -> None:
        """Copy the measurement of one batch into the rows ``index``."""
        for column in fields(measurement):
            array = getattr(measurement, column.name)
            if array is not None:
                getattr(self, column.name)[index] = array


@dataclass(frozen=True, kw_only=True)
class SersicFitterBase(ABC):
    """Base of the estimators: configuration only; one fitter may serve many threads.

    A subclass is a frozen dataclass with the fields ``crb``, ``covariance``, ``device`` and ``batch_size``, and gives
    `measure`. What it may have besides is declared here with the value that stands for its absence: with a field
    ``calibration`` it calls ``_load_calibration`` when it is made.
    """

    # without annotations, so that they are no fields of those that do not have them
    fixed = MappingProxyType({})
    fit_background = False
    calibration = None
    _calibration = None

    _has_starts: ClassVar[bool] = True  # whether the table has columns of starting values
    _has_errors: ClassVar[bool] = True  # whether rows without finite errors are flagged

    def __post_init__(self):
        """Check what all fitters have in common."""
        fixed = self.fixed
        if not isinstance(fixed, Mapping):
            msg = f"fixed must be a dict of parameter names and values, not {type(fixed).__name__}"
            raise TypeError(msg)
        for name, value in fixed.items():
            _check_fixed(name, value)
        if ("g1" in fixed) != ("g2" in fixed):
            msg = "fixed must hold g1 and g2 together"
            raise ValueError(msg)
        size = self.batch_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            msg = f"batch_size must be a positive integer or None, not {size!r}"
            raise ValueError(msg)

    @property
    def method(self) -> str:
        """Short name of the estimator, as in the column ``method``."""
        return type(self).__name__.removesuffix("SersicFitter").lower()

    def describe_estimator(self) -> dict[str, Any]:
        """Names and values of all settings that change the estimates: a calibration holds for these."""
        return {"method": self.method}

    def _load_calibration(self):
        """Read the file of ``calibration``, for this estimator; the last step of ``__post_init__``."""
        calibration = None
        if self.calibration is not None:
            calibration = QuantileCalibration.read_with_digest(self.calibration)
            calibration[0].check_estimator(self.describe_estimator())
        object.__setattr__(self, "_calibration", calibration)

    @abstractmethod
    def measure(self, batch: CutoutBatch, init: npt.NDArray[np.float64]) -> BatchMeasurement:
        """Measure one batch.

        Parameters
        ----------
        batch : CutoutBatch
            Cutouts in units of their noise.
        init : ndarray, shape (B, 7)
            Starting values in the units of the batch, NaN where none are given.

        Returns
        -------
        BatchMeasurement
            In the units of the batch.
        """

    def fit(
        self,
        cutouts: Any,
        psf: Any = None,
        *,
        error: Any = None,
        mask: Any = None,
        gain: npt.ArrayLike | None = None,
        pixel_scale: npt.ArrayLike | u.Quantity | None = None,
        wcs: Any = None,
        psf_oversampling: int = 1,
        psf_flux: npt.ArrayLike | str | None = None,
        psf_includes_pixel: bool = True,
        positions: npt.ArrayLike | None = None,
        init_params: Table | None = None,
        ids: Sequence | None = None,
        zero_point: npt.ArrayLike | None = None,
        progress_bar: bool | Callable[[int], Any] = False,
        **unknown: Any,
    ) -> QTable:
        """Measure galaxies.

        Parameters
        ----------
        cutouts : array_like, Quantity, NDData, Cutout2D, list of these, photutils SourceCatalog, or Cutouts
            Background-subtracted stamps, ``(N, ny, nx)``, ``(ny, nx)`` or a list of unequal shapes; see
            `~galmeasure.Cutouts` for these arguments up to ``ids`` and ``zero_point``.
        psf : array_like, PSF model, GalSim object, or list of these, optional
            Pixel response included; one for all or one per cutout. Without it a delta function, which is flagged.
        error : float or array_like, optional
            1-sigma noise; estimated from the border pixels, and flagged, when not given.
        mask : array_like of bool, optional
            True is a bad pixel.
        gain : float or array_like, optional
            Electrons per unit: adds the source's shot noise to ``error``.
        pixel_scale : float, Quantity or array_like, optional
            Side of a pixel in arcsec.
        wcs : WCS or list of WCS, optional
            Gives ra, dec, pa and the pixel scale.
        psf_oversampling : int, optional
            PSF pixels per cutout pixel.
        psf_flux : float, array_like or "sum", optional
            Fraction of a star's light that the PSF image holds; ``"sum"``: the sum of the image is this fraction.
            Estimated from the wings of the image by default.
        psf_includes_pixel : bool, optional
            Whether the PSF includes the response of the detector's pixel; if not it is convolved with it.
        positions : array_like, optional
            Centres of the stamps in the parent image, x, y, shape ``(N, 2)``.
        init_params : table, optional
            Starting values, columns ``<p>_fit``, ``<p>_init`` or ``<p>`` (the first of them that is there), in the
            units of the result table; what is missing or NaN is estimated.
        ids : sequence, optional
            Identifiers of the rows.
        zero_point : float or array_like, optional
            Magnitude of one unit of flux.
        progress_bar : bool or callable, optional
            Show a bar on standard error; or a function that is told how many more galaxies are done, now and then.
        **unknown
            Nothing else is taken: names that other codes have for these arguments raise a TypeError that tells ours.

        Returns
        -------
        `~astropy.table.QTable`
            One row per cutout in their order; a cutout that cannot be measured holds NaN and a flag.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, shape or unit; the message names it and the rule.
        """
        refuse_words("fit", unknown, _ARGUMENTS)
        options = {
            "error": error, "mask": mask, "gain": gain, "pixel_scale": pixel_scale, "wcs": wcs,
            "psf_oversampling": psf_oversampling, "psf_flux": psf_flux, "psf_includes_pixel": psf_includes_pixel,
            "positions": positions, "ids": ids, "zero_point": zero_point,
        }  # fmt: skip
        cutouts = Cutouts(cutouts, psf, **options)
        init = fixed_values(self.fixed, initial_values(init_params, cutouts), cutouts)
        not_held = self._not_held(init)
        measurement = BatchMeasurement.empty(len(cutouts), **self._columns())
        with progress(len(cutouts), progress_bar) as bar:
            for index, of_batch in self._measure_batches(cutouts, init, bar.update):
                measurement.put(index, of_batch)
        measurement.flags[not_held] |= Flag.FAILED
        measurement.flags |= _psf_light_flags(cutouts, measurement.snr)
        return self._assemble(cutouts, measurement)

    def __call__(self, cutouts, psf=None, **options):
        """Measure galaxies; the same as `fit`."""
        return self.fit(cutouts, psf, **options)

    def make_model_images(self, table: Table, cutouts: Cutouts) -> list:
        """Model images of fitted galaxies; see `galmeasure.fitters.make_model_images`."""
        return make_model_images(table, cutouts)

    def make_residual_images(self, table: Table, cutouts: Cutouts) -> list:
        """Data minus model of fitted galaxies; see `galmeasure.fitters.make_residual_images`."""
        return make_residual_images(table, cutouts)

    def _columns(self):
        """Optional arrays of the measurement."""
        return {"background": self.fit_background, "crb": self.crb}

    def _meta(self):
        """More entries for the meta of the table."""
        return {}

    def _not_held(self, init):
        """Rows ``(N,)`` whose value for a parameter that is fixed at ``"init"`` is missing; not all may be."""
        missing = np.zeros(len(init), dtype=bool)
        for name, value in self.fixed.items():
            if isinstance(value, str):
                missing |= np.isnan(init[:, PARAMETER_INDEX[name]])
        if missing.all():
            msg = "init_params must give the parameters that fixed holds at 'init'"
            raise ValueError(msg)
        return missing

    def _measure_batches(self, cutouts, init, report):
        """Yield rows and their measurements, in input units, batch by batch; `report` is told of rows that are done."""
        with single_threaded() as n_threads:
            n_workers = n_threads if self.device == "cpu" else 1
            n_shares = batch_division(n_workers) if self.device == "cpu" else 1
            batches = cutouts.batches(self._max_pixels(cutouts, n_shares))
            batches = (replace(batch, progress=BatchProgress(len(batch), report)) for batch in batches)
            yield from map_batches(lambda batch: self._measure_batch(batch, init), batches, n_workers)

    def _max_pixels(self, cutouts, n_workers):
        """Pixels of one batch: as many as fit, but something for every worker."""
        largest = int(cutouts.shapes.prod(axis=1).max())
        if self.batch_size is not None:
            return self.batch_size * largest
        share = -(-len(cutouts) // n_workers)
        return min(self._batch_pixels(), share * largest)

    def _batch_pixels(self):
        """Largest number of pixels of one batch."""
        return chunk_size("batch")

    def _measure_batch(self, batch, init):
        batch = fail_blank(batch)
        start = init[batch.index]
        start[:, PARAMETER_INDEX["flux"]] /= batch.scale
        measurement = self.measure(batch, start)
        self._calibrate(batch, measurement)
        measurement.in_flux_units(batch.scale)
        measurement.flags |= batch.flags
        measurement.flags[~np.isfinite(measurement.values).all(axis=1)] |= Flag.FAILED
        if self._has_errors:
            flag_unknown_errors(measurement.values, measurement.covariance, measurement.flags)
        batch.progress.finish()
        return batch.index, measurement

    def _calibrate(self, batch, measurement):
        """Correct values, covariances and quantiles of one batch, in place; those of failed rows stay."""
        if self._calibration is None:
            return
        failed = ((measurement.flags | batch.flags) & int(Flag.FAILED)) != 0
        snr = np.where(failed, np.nan, measurement.snr)
        with np.errstate(all="ignore"):
            size = measurement.values[:, PARAMETER_INDEX["r_eff"]] / batch.psf_fwhm[batch.psf_index]
        columns = measurement.values, measurement.covariance, measurement.quantiles
        corrected = self._calibration[0].apply(*columns, snr=snr, size=size)
        measurement.values, measurement.covariance, measurement.quantiles = corrected

    def _calibration_meta(self):
        """Entries for the meta of the table: name and SHA-256 of the file."""
        if self._calibration is None:
            return {}
        return {"CALIBRAT": Path(self.calibration).name, "CALIBSHA": self._calibration[1]}

    def _assemble(self, cutouts, measured):
        extra = {}
        if measured.background is not None:
            extra = {"background_fit": measured.background, "background_err": measured.background_err}
        if measured.ess is not None:
            extra |= {"ess": measured.ess, "n_draws": measured.n_draws, "log_evidence": measured.log_evidence}
        if measured.ood_score is not None:
            extra |= {"ood_score": measured.ood_score, "ood_reason": measured.ood_reason}
        if measured.point_like is not None:
            extra |= {"point_like": measured.point_like}
        measurement = Measurement(
            values=measured.values, covariance=measured.covariance, flags=measured.flags, snr=measured.snr,
            chi2_reduced=measured.chi2_reduced, n_pixels_fit=measured.n_pixels_fit, crb=measured.crb,
            init=measured.init if self._has_starts else None, quantiles=measured.quantiles, extra=extra,
            method=self.method if measured.method is None else measured.method,
        )  # fmt: skip
        meta = {"FITTER": repr(self), **self._meta(), **self._calibration_meta(), **cutouts.psf_meta}
        return build_table(cutouts, measurement, covariance=self.covariance, meta=meta)


def _psf_light_flags(cutouts, snr):
    """Bits (N,) of bright galaxies whose flux may be wrong by more than noise for light outside of the PSF image."""
    with np.errstate(invalid="ignore"):
        return (cutouts.psf_light_unknown & (snr > _BRIGHT)) * int(Flag.PSF_LIGHT_UNKNOWN)


def _check_fixed(name, value):
    """One entry of ``fixed``."""
    if name not in PARAMETER_INDEX:
        msg = f"fixed names {name!r}, which is not one of {', '.join(PARAMETER_INDEX)}"
        raise ValueError(msg)
    if isinstance(value, str):
        if value != "init":
            msg = f"fixed[{name!r}] must be a number or 'init', not {value!r}"
            raise ValueError(msg)
        return
    number = getattr(value, "value", value)
    if isinstance(number, bool) or not np.isscalar(number) or not np.isfinite(number):
        msg = f"fixed[{name!r}] must be one finite number or 'init', not {value!r}"
        raise ValueError(msg)
    parameter = PARAMETERS[PARAMETER_INDEX[name]]
    inside = number > 0 if parameter.kind == "length" else parameter.lower <= number <= parameter.upper
    if not inside:
        msg = f"fixed[{name!r}] = {value!r} lies outside the bounds of {name}"
        raise ValueError(msg)
