"""The statistically optimal linear filter of a parameter, and the information of each pixel about it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from astropy import units as u
from numpy.typing import NDArray

from galmeasure.cutouts import Cutouts
from galmeasure.explain.explanation import Explanation, numbers_of
from galmeasure.likelihood import cramer_rao_bound, invert_information
from galmeasure.likelihood.white_noise import signal_to_noise, variance
from galmeasure.parameters import SERSIC
from galmeasure.priors import Prior, get_prior
from galmeasure.render import prepare_psf, render_sersic
from galmeasure.results.columns import TRUTH_FORMS, table_values
from galmeasure.results.frame import Frame

__all__ = ["OptimalFilter", "correlations", "optimal_filter"]

_DRAWS = 20_000  # of a prior, of which the covariance is known to one per cent
_FLUX = SERSIC.index("flux")


@dataclass(frozen=True, eq=False)
class OptimalFilter:
    """What a perfect linear estimator of one parameter reads from each pixel.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    maps : list of ndarray or Quantity
        Row of the parameter in ``(F + P^-1)^-1 J^T W``, one map per galaxy in the shape of its cutout and in the unit
        of a saliency: ``F`` is the Fisher information, ``P`` the covariance of the prior, ``J`` the derivatives of the
        model by the parameters and ``W`` the inverse variance of the pixels. It is 0 in bad pixels, and NaN where the
        parameters are not known.
    information : list of ndarray
        Information of each pixel about the parameter where the others are free, in units of one over the square of the
        parameter; the sum over the pixels is one over the square of ``bounds``.
    bounds : ndarray or Quantity
        Cramer-Rao bound of each galaxy, without the prior, shape ``(N,)``.
    errors : ndarray or Quantity
        Error of the optimal linear estimator, prior included, shape ``(N,)``.
    """

    parameter: str
    maps: list[NDArray[np.float64] | u.Quantity]
    information: list[NDArray[np.float64]]
    bounds: NDArray[np.float64] | u.Quantity
    errors: NDArray[np.float64] | u.Quantity

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.maps)


@dataclass(frozen=True)
class _Linear:
    """Linear model of one stamp: derivatives, inverse variances, free parameters, precision of the prior."""

    jacobian: torch.Tensor  # (7, ny, nx)
    weight: torch.Tensor  # (ny, nx)
    free: list[int]
    precision: torch.Tensor  # (K, K), of the free parameters

    def results(self, parameter):
        """Filter, information of each pixel, bound and error of a parameter."""
        place = self.free.index(SERSIC.index(parameter))
        jacobian = self.jacobian[self.free]
        weighted = jacobian * self.weight
        fisher = torch.einsum("iyx,jyx->ij", weighted, jacobian)
        with_prior = invert_information((fisher + self.precision)[None])[0]
        without = invert_information(fisher[None])[0]
        efficient = torch.einsum("j,jyx->yx", without[place], jacobian) / without[place, place]
        bound = cramer_rao_bound(fisher[None])[0, place]
        filters = torch.einsum("j,jyx->yx", with_prior[place], weighted)
        return filters, efficient**2 * self.weight, float(bound), float(with_prior[place, place].sqrt())


def optimal_filter(
    cutouts: Cutouts,
    table: Any,
    parameter: str = "n",
    *,
    prior: str | Prior | None = None,
    known: tuple[str, ...] = (),
) -> OptimalFilter:
    """Compute the optimal linear filter of a parameter about given parameters.

    Parameters
    ----------
    cutouts : `~galmeasure.Cutouts`
        Cutouts with noise, masks and PSFs; the values of their pixels do not matter.
    table : `~astropy.table.Table` or dict
        Parameters about which the model is made linear, one row per cutout: columns ``true_<p>``, ``<p>`` or
        ``<p>_fit``, such as the truth or a result of a fitter.
    parameter : str, optional
        Parameter that the filter estimates. Default "n".
    prior : str or Prior, optional
        Prior whose covariance enters, such as that of the training of a network; by default none, which gives the
        estimator without bias whose error is the Cramer-Rao bound.
    known : tuple of str, optional
        Parameters that are taken as known, such as the centre by networks of point estimates.

    Returns
    -------
    OptimalFilter
        Filter, information, bound and error of each galaxy.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, lacks rows or columns, or ``parameter`` is known.

    Notes
    -----
    For Gaussian noise, a model that is linear and a Gaussian prior, the posterior mean is linear in the pixels, and
    this is its derivative. A network that answers with the posterior mean must come near to it where the noise is small
    enough for the model to be linear. Where the flux of a prior follows from the signal-to-noise ratio, or is in
    electrons and there is no gain, its covariance is that of the range of signal-to-noise ratios.

    Examples
    --------
    >>> import numpy as np
    >>> from galmeasure import Cutouts
    >>> from galmeasure.explain import optimal_filter
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> psf = np.exp(-(x**2 + y**2) / 8)
    >>> truth = {"flux": 1e4, "n": 1.0, "r_eff": 4.0, "g1": 0.2, "g2": 0.0, "x": 16.0, "y": 16.0}
    >>> cutouts = Cutouts(np.zeros((33, 33)), psf, error=10.0)
    >>> best = optimal_filter(cutouts, {name: [value] for name, value in truth.items()}, "n")
    >>> print(f"{best.bounds[0]:.3f} {best.information[0].sum() ** -0.5:.3f}")
    0.118 0.118
    """
    _check(cutouts, parameter, known)
    values = table_values(table, cutouts, TRUTH_FORMS, argument="table")
    prior = None if prior is None else get_prior(prior)
    results = [_of_galaxy(cutouts, i, values[i], parameter, prior, known) for i in range(len(cutouts))]
    maps, information, bounds, errors = (list(column) for column in zip(*results, strict=True))
    frame = Frame.of(cutouts)
    scale, unit = frame.scale(parameter), frame.unit_of(parameter)
    maps = [pixels * factor for pixels, factor in zip(maps, scale, strict=True)]
    information = [pixels / factor**2 for pixels, factor in zip(information, scale, strict=True)]
    per_pixel = (u.dimensionless_unscaled if unit is None else unit) / (frame.unit or u.dimensionless_unscaled)
    if per_pixel != u.dimensionless_unscaled:
        maps = [u.Quantity(pixels, per_pixel, copy=False) for pixels in maps]
    columns = (frame.column(parameter, np.array(column), difference=True) for column in (bounds, errors))
    return OptimalFilter(parameter, maps, information, *columns)


def correlations(explanation: Explanation, best: OptimalFilter) -> NDArray[np.float64]:
    """Correlate the derivatives of a network with the optimal filter, pixel by pixel.

    Parameters
    ----------
    explanation : Explanation
        Explanation of the kind ``"saliency"``.
    best : OptimalFilter
        Optimal filter of the same parameter and the same cutouts.

    Returns
    -------
    ndarray
        Correlation coefficient of each galaxy over the pixels of both maps, shape ``(N,)``; NaN where there is none.

    Raises
    ------
    ValueError
        If the arguments are of different parameters or numbers of galaxies, or the explanation is of another kind.
    """
    if explanation.method != "saliency":
        msg = f"explanation must be of method 'saliency', not {explanation.method!r}"
        raise ValueError(msg)
    if (explanation.parameter, len(explanation)) != (best.parameter, len(best)):
        wanted, given = (f"the {item.parameter} of {len(item)} galaxies" for item in (explanation, best))
        msg = f"best must be of {wanted}, as the explanation, not of {given}"
        raise ValueError(msg)
    pairs = zip(explanation.maps, best.maps, strict=True)
    return np.array([_correlation(numbers_of(first), numbers_of(second)) for first, second in pairs])


def _correlation(first, second):
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any() or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return np.nan
    return float(np.corrcoef(first[both], second[both])[0, 1])


def _check(cutouts, parameter, known):
    if not isinstance(cutouts, Cutouts):
        msg = f"cutouts must be a Cutouts, which holds the PSF, not {type(cutouts).__name__}"
        raise TypeError(msg)
    free = [name for name in SERSIC.names if name not in known]
    if len(free) != SERSIC.size - len(known):
        msg = f"known must hold names of parameters ({', '.join(SERSIC.names)}), not {', '.join(map(str, known))}"
        raise ValueError(msg)
    if parameter not in free:
        msg = f"parameter must be one that is not known ({', '.join(free)}), not {parameter!r}"
        raise ValueError(msg)


def _of_galaxy(cutouts, i, values, parameter, prior, known):
    """Filter and information of one galaxy in the unit of its pixels; NaN where its parameters are not known."""
    shape = tuple(int(side) for side in cutouts.shapes[i])
    if not np.isfinite(values).all():
        return np.full(shape, np.nan), np.full(shape, np.nan), np.nan, np.nan
    psf = torch.from_numpy(np.array(cutouts.psf_image(i), dtype=float))[None]
    grid = prepare_psf(psf, shape, oversampling=cutouts.psf_oversampling, dtype=torch.float64)
    error = torch.from_numpy(np.broadcast_to(np.asarray(cutouts.error(i), dtype=float), shape).copy())[None]
    gain = None if cutouts.gain is None else torch.tensor([float(cutouts.gain[i])], dtype=torch.float64)
    usable = ~cutouts.mask(i) & np.isfinite(cutouts.image(i))
    good = torch.from_numpy(usable)[None]
    with torch.inference_mode():
        model, jacobian = render_sersic(torch.from_numpy(values)[None], grid, jacobian=True)
        weight = torch.where(good, 1.0 / variance(model, error, gain), 0.0)[0]
        free = [SERSIC.index(name) for name in SERSIC.names if name not in known]
        precision = torch.zeros((len(free), len(free)), dtype=torch.float64)
        if prior is not None:
            snr = float(signal_to_noise(model, error, good, gain)[0])
            free, precision = _prior_precision(prior, values, shape, snr, _fwhm(cutouts, i), gain, free)
        linear = _Linear(jacobian[0], weight, free, precision)
        filters, information, bound, posterior_error = linear.results(parameter)
    return filters.numpy(), information.numpy(), bound, posterior_error


def _fwhm(cutouts, i):
    """Width of the PSF of a galaxy, pixel response included, pixels."""
    batch = next(iter(cutouts[i : i + 1].batches(1)))
    return float(batch.psf_fwhm[batch.psf_index[0]])


def _prior_precision(prior, values, shape, snr, fwhm, gain, free):
    """Parameters that the prior leaves free, and the inverse of its covariance."""
    generator = torch.Generator().manual_seed(0)
    near = torch.full((_DRAWS,), snr), torch.full((_DRAWS,), fwhm)
    drawn = prior.sample(_DRAWS, shape, snr=near[0], psf_fwhm=near[1], generator=generator).double()
    if prior.electrons is not None and gain is not None:
        drawn[:, _FLUX] /= gain
    else:
        drawn[:, _FLUX] = prior.snr.sample(_DRAWS, generator) * (values[_FLUX] / snr)
    free = [column for column in free if drawn[:, column].std() > 0]
    covariance = torch.cov(drawn[:, free].T)
    return free, invert_information(covariance[None])[0]
