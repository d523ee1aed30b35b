"""Fitters and what their answers are worth, for ``default_answer.py``: bias, errors, coverage, flags."""

import inspect
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter
from galmeasure.flags import FLAGS
from galmeasure.parameters import PARAMETER_NAMES

SNR_EDGES = (5.0, 15.0, 50.0, 250.0, np.inf)
JUDGED = PARAMETER_NAMES[:5]
FEWEST = 20  # galaxies in a bin
ROUNDS = 100  # of the bootstrap
CHI2_LIMIT = 1.1

STATISTICS = (
    "galaxies", "parameter", "bias", "bias_err", "bias_lsq", "bias_lsq_err", "error", "error_lsq", "ratio",
    "ratio_err", "inside", "below_q16", "above_q84", "pull_median", "pull_std", "pull_width", "pull_width_lsq",
    "inside_lsq",
)  # fmt: skip
"""Columns of `statistics`: median error and its standard error, of the default and of least squares; median absolute
errors and their ratio; percent of truths inside, below and above the 68 % interval; median, standard deviation and
half of the 16 to 84 % range of the pulls. Errors in flux, n and r_eff are relative, those in g1 and g2 are not."""

SHARES = ("galaxies", "chi2_high", "chi2_high_lsq", "flagged", "flagged_lsq", "flags", "flags_lsq")
"""Columns of `shares`, percent."""


def make_fitters(weights=None, refine="default"):
    """Return the default estimator and least squares; options that are not given stay the package's own."""
    options = {} if weights is None else {"weights": weights}
    if refine != "default":
        options["refine"] = None if refine == "none" else refine
    return {"default": NeuralSersicFitter(**options), "lsq": LSQSersicFitter()}


def plain(column):
    """Values of a column without their unit."""
    return np.asarray(getattr(column, "value", column), dtype=float)


@dataclass(frozen=True)
class Answer:
    """A result table as arrays.

    Parameters
    ----------
    values, errors, low, high : ndarray, shape (N, 7)
        Estimates, 1-sigma errors, and 16 and 84 % quantiles; one error to either side where there are none.
    chi2 : ndarray, shape (N,)
        Reduced chi-squared.
    flags : ndarray of int, shape (N,)
        Quality bits.
    point_like : ndarray, shape (N,)
        Column of that name; NaN where the table has none.
    """

    values: np.ndarray
    errors: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chi2: np.ndarray
    flags: np.ndarray
    point_like: np.ndarray

    @classmethod
    def from_table(cls, table):
        """Read a result table."""

        def stack(end):
            return np.stack([plain(table[f"{name}_{end}"]) for name in PARAMETER_NAMES], 1)

        values, errors = stack("fit"), stack("err")
        has_quantiles = "n_q16" in table.colnames
        low, high = (stack("q16"), stack("q84")) if has_quantiles else (values - errors, values + errors)
        has_point = "point_like" in table.colnames
        point = plain(table["point_like"]) if has_point else np.full(len(table), np.nan)
        return cls(values, errors, low, high, plain(table["chi2_reduced"]), np.asarray(table["flags"]), point)

    @classmethod
    def concatenate(cls, answers):
        """Rows of several answers in order."""
        return cls(*(np.concatenate([getattr(answer, field.name) for answer in answers]) for field in fields(cls)))

    def __getitem__(self, rows):
        """Return some of the rows."""
        return Answer(*(getattr(self, field.name)[rows] for field in fields(self)))


def fit(fitter, images, psf, *, psf_flux=None, error=1.0, **options):
    """Fit stamps; ``psf_flux``, the light within the PSF image, is told if the package can be told."""
    if psf_flux is not None and "psf_flux" in inspect.signature(Cutouts.__init__).parameters:
        options["psf_flux"] = psf_flux
    return Answer.from_table(fitter.fit(images, psf, error=error, **options))


def deviations(values, truth):
    """Differences from the truth ``(N, 5)``, relative ones of flux, n and r_eff."""
    return (values[:, :5] - truth[:, :5]) / np.where(np.arange(5) < 3, truth[:, :5], 1.0)


def resampled(groups, rng):
    """Rows of bootstrap samples, in which galaxies that share a noiseless image stay together."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for _ in range(ROUNDS):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def _summary(difference, difference_lsq):
    """Bias of both, median absolute errors of both and their ratio, ``(5, 5)``."""
    with np.errstate(all="ignore"):
        error, error_lsq = np.nanmedian(np.abs(difference), 0), np.nanmedian(np.abs(difference_lsq), 0)
        biases = np.nanmedian(difference, 0), np.nanmedian(difference_lsq, 0)
        return np.stack([*biases, error, error_lsq, error / error_lsq])


def coverage(answer, truth):
    """Percent of truths inside, below and above the 68 % intervals, each ``(5,)``."""
    known = np.isfinite(answer.values[:, :5]).all(1)
    low, high, true = answer.low[known, :5], answer.high[known, :5], truth[known, :5]
    below, above = 100.0 * (true < low).mean(0), 100.0 * (true > high).mean(0)
    return 100.0 - below - above, below, above


def pulls(answer, truth):
    """Median, standard deviation and half of the 16 to 84 % range of the pulls, each ``(5,)``."""
    pull = (answer.values - truth)[:, :5] / answer.errors[:, :5]
    low, middle, high = np.nanpercentile(pull, (15.87, 50.0, 84.13), axis=0)
    return middle, np.nanstd(pull, axis=0), (high - low) / 2.0


def statistics(answer, lsq, truth, groups, seed=0):
    """Rows of a table with the columns `STATISTICS`, one for each parameter.

    Parameters
    ----------
    answer, lsq : Answer
        The default's answer, and that of least squares on the same stamps.
    truth : ndarray, shape (N, 7)
        True parameters.
    groups : ndarray of int, shape (N,)
        Number of the noiseless image of each stamp.
    seed : int, optional
        Seed of the bootstrap.

    Returns
    -------
    list of tuple
        The rows.
    """
    both = deviations(answer.values, truth), deviations(lsq.values, truth)
    summary, rng = _summary(*both), np.random.default_rng(seed)
    scatter = np.std([_summary(both[0][rows], both[1][rows]) for rows in resampled(groups, rng)], axis=0)
    inside, below, above = coverage(answer, truth)
    middle, std, width = pulls(answer, truth)
    columns = (
        summary[0], scatter[0], summary[1], scatter[1], summary[2], summary[3], summary[4], scatter[4], inside, below,
        above, middle, std, width, pulls(lsq, truth)[2], coverage(lsq, truth)[0],
    )  # fmt: skip
    return [(len(truth), name, *(column[i] for column in columns)) for i, name in enumerate(JUDGED)]


def flag_share(answer, flag=None):
    """Percent of the rows with a flag, any flag by default."""
    bits = answer.flags if flag is None else answer.flags & int(flag)
    return 100.0 * float(np.mean(bits != 0))


def flag_text(answer):
    """Flags with the percentage of rows that have them, the most common first."""
    found = {flag.name: flag_share(answer, flag.value) for flag in FLAGS}
    shown = sorted((item for item in found.items() if item[1] > 0), key=lambda item: -item[1])
    return ", ".join(f"{name} {percent:.0f}" for name, percent in shown) or "-"


def shares(answer, lsq):
    """Row of a table with the columns `SHARES`."""
    high = (100.0 * float(np.mean(each.chi2 > CHI2_LIMIT)) for each in (answer, lsq))
    flagged = flag_share(answer), flag_share(lsq)
    return (len(answer.flags), *high, *flagged, flag_text(answer), flag_text(lsq))


def snr_bins(snr):
    """Yield the edges and rows of the bins of S/N that hold enough galaxies."""
    for lower, upper in pairwise(SNR_EDGES):
        rows = np.flatnonzero((snr >= lower) & (snr < upper))
        if len(rows) >= FEWEST:
            yield lower, upper, rows
