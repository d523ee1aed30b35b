"""A drawn galaxy measured by one estimator, and what the page shows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from galmeasure.app.drawing import GAIN, DrawnGalaxy
from galmeasure.flags import FLAGS, Flag
from galmeasure.parameters import PARAMETER_NAMES, SERSIC

if TYPE_CHECKING:
    import numpy.typing as npt
    from astropy.table import QTable

__all__ = [
    "N_DRAWS", "SHOWN", "MeasuredGalaxy", "flag_sentences", "measure_galaxy", "result_rows", "shown_block",
    "shown_label",
]  # fmt: skip

N_DRAWS = 400
"""Draws of a posterior that are shown."""

SHOWN = ("flux", "n", "r_eff", "g1", "g2")
"""Parameters in tables and pictures; the centre is measured as well."""

_UNITS = {"flux": " [adu]", "r_eff": " [arcsec]"}
_MOST_DIGITS = 6


@dataclass(frozen=True, eq=False)
class MeasuredGalaxy:
    """Measurement of a drawn galaxy.

    Parameters
    ----------
    table : QTable
        Result table of one row.
    estimate, error : dict of str to float
        Value and 1-sigma error of each of the seven parameters, in the units of a result table; NaN where there
        is none.
    covariance : ndarray
        Covariance of the errors, shape ``(7, 7)``; NaN where the estimator gives none.
    draws : dict of str to ndarray, or None
        Draws of the posterior by parameter, shape ``(S,)``; None where the estimator has no posterior.
    model, residual : ndarray or None
        Model in adu and residual in units of the noise, shape ``(64, 64)``; None where the measurement failed.
    seconds : float
        Time that the measurement took, draws included.
    """

    table: QTable
    estimate: dict[str, float]
    error: dict[str, float]
    covariance: npt.NDArray[np.float64]
    draws: dict[str, npt.NDArray[np.float64]] | None
    model: npt.NDArray[np.float64] | None
    residual: npt.NDArray[np.float64] | None
    seconds: float

    @property
    def flags(self) -> int:
        """Quality flags of the measurement."""
        return int(self.table["flags"][0])

    @property
    def has_failed(self) -> bool:
        """Whether nothing could be measured."""
        return bool(self.flags & Flag.FAILED)


def measure_galaxy(drawn: DrawnGalaxy, fitter: Any, seed: int = 0) -> MeasuredGalaxy:
    """Measure a drawn galaxy.

    Parameters
    ----------
    drawn : DrawnGalaxy
        Stamp that is measured.
    fitter : SersicFitterBase
        Estimator that measures it.
    seed : int, optional
        Seed of the draws of the posterior. Default 0.

    Returns
    -------
    MeasuredGalaxy
        Result, draws, model and residual.
    """
    start = time.perf_counter()
    table = fitter.fit(drawn.cutouts)
    draws = _draws(fitter, drawn, seed) if hasattr(fitter, "sample") else None
    seconds = time.perf_counter() - start
    estimate, error = ({name: _number(table, f"{name}_{kind}") for name in PARAMETER_NAMES} for kind in ("fit", "err"))
    size = len(PARAMETER_NAMES)
    covariance = np.asarray(table["covariance"][0]) if "covariance" in table.colnames else np.full((size, size), np.nan)
    model = residual = None
    if np.isfinite(list(estimate.values())).all():
        model = drawn.model_image(estimate)
        noise = np.sqrt(drawn.settings.sigma**2 + np.maximum(model, 0.0) / GAIN)
        residual = (np.asarray(drawn.cutouts.image(0), dtype=float) - model) / noise
    return MeasuredGalaxy(table, estimate, error, covariance, draws, model, residual, seconds)


def result_rows(drawn: DrawnGalaxy, measured: MeasuredGalaxy) -> list[dict[str, str]]:
    """Write truth, estimate and errors as the rows of a table.

    Parameters
    ----------
    drawn : DrawnGalaxy
        Galaxy with its truth and bounds.
    measured : MeasuredGalaxy
        Measurement of this galaxy.

    Returns
    -------
    list of dict
        One row per parameter: its name, truth, estimate, error, Cramer-Rao bound, and pull, which is the deviation in
        units of the error.
    """
    rows = []
    for name in SHOWN:
        truth, value, error, bound = (
            drawn.truth[name], measured.estimate[name], measured.error[name], drawn.bounds[name],
        )  # fmt: skip
        places = _places(error if np.isfinite(error) and error > 0 else bound)
        deviation = (value - truth) / error if np.isfinite(error) and error > 0 else np.nan
        rows.append({
            "Parameter": shown_label(name),
            "Truth": _text(truth, places),
            "Estimate": _text(value, places),
            "Error": _text(error, places),
            "Bound": _text(bound, places),
            "Pull": "–" if np.isnan(deviation) else f"{deviation:+.1f}",
        })  # fmt: skip
    return rows


def shown_label(name: str) -> str:
    """Return the name of a parameter with its unit.

    Parameters
    ----------
    name : str
        Name of one of the parameters that are shown.

    Returns
    -------
    str
        Name as in result tables, and the unit in brackets.
    """
    return name + _UNITS.get(name, "")


def flag_sentences(flags: int) -> list[str]:
    """Say what the flags of a row mean.

    Parameters
    ----------
    flags : int
        Value of the column ``flags``.

    Returns
    -------
    list of str
        Name and description of each flag that is set.
    """
    return [f"{flag.name}: {flag.description}" for flag in FLAGS if flags & flag.value]


def shown_block(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Take the block of the parameters that are shown out of a covariance.

    Parameters
    ----------
    covariance : ndarray
        Covariance of the seven parameters, shape ``(7, 7)``.

    Returns
    -------
    ndarray
        Covariance in the order of `SHOWN`, shape ``(5, 5)``.
    """
    columns = list(SERSIC.indices(*SHOWN))
    return np.asarray(covariance)[np.ix_(columns, columns)]


def _draws(fitter, drawn, seed):
    """Draws of the posterior of the parameters that are shown; None where there is no measurement."""
    table = fitter.sample(drawn.cutouts, n_samples=N_DRAWS, seed=seed)
    draws = {name: np.asarray(getattr(table[name][0], "value", table[name][0]), dtype=float) for name in SHOWN}
    return draws if np.isfinite(list(draws.values())).all() else None


def _number(table, name):
    """Value of the only row of a column as a plain number; NaN where there is no such column."""
    if name not in table.colnames:
        return float("nan")
    return float(getattr(table[name][0], "value", table[name][0]))


def _places(error):
    """Decimal places that show two digits of an error."""
    if not (np.isfinite(error) and error > 0):
        return 3
    return int(np.clip(1 - np.floor(np.log10(error)), 0, _MOST_DIGITS))


def _text(value, places):
    """Number with a fixed number of decimal places."""
    return f"{value:,.{places}f}" if np.isfinite(value) else "–"
