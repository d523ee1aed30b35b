"""Posterior density of one galaxy of the study's data sets: by its parameters, and in variables to sample."""

import numpy as np
import torch
from _importance import Mixture
from scipy.special import expit, log_expit, log_ndtr, logit, ndtr, ndtri

from galmeasure.likelihood import log_likelihood
from galmeasure.priors import get_prior
from galmeasure.render import prepare_psf, render_sersic

PRIOR = get_prior("study")

PIECE = 12
"""Stamps rendered at once, so that temporaries stay in the cache."""

_FLUX_STRETCH = 1.1  # of the proposal of the flux
_LEAST_STD = 0.02  # of the starting proposal
_WIDE_STD = np.array([1.9, 1.9, 0.75, 0.75])  # of the prior in the variables of index, radius and shear


class Galaxy:
    """Posterior density of one galaxy; brightness in units of the background noise, lengths in pixels.

    Parameters
    ----------
    cutouts : `~galmeasure.Cutouts`
        Stamps.
    row : int
        Which of them.
    """

    def __init__(self, cutouts, row):
        self.sigma = float(cutouts.error(row)[0, 0])
        self.scale = float(cutouts.pixel_scale[row])
        self.image = torch.from_numpy(cutouts.image(row) / self.sigma).float()
        self.gain = float(cutouts.gain[row]) * self.sigma
        self.shape = tuple(self.image.shape)
        psf = torch.from_numpy(cutouts.psf_image(row).copy())[None]
        self.psf = prepare_psf(psf, self.shape, oversampling=cutouts.psf_oversampling)
        self.units = np.array([self.sigma, 1.0, self.scale, 1.0, 1.0, 1.0, 1.0])

    @property
    def middle(self):
        """Centre of the stamp, x and y."""
        return (np.array(self.shape[::-1]) - 1) / 2

    def log_likelihood(self, model):
        """Log-likelihood of models ``(B, ny, nx)``, shape ``(B,)``."""
        image, good = self.image.expand_as(model), torch.ones_like(model, dtype=torch.bool)
        gain = torch.full((len(model),), self.gain)
        return log_likelihood(model, image, torch.ones(()), good, gain).numpy()

    def log_prior(self, parameters, norm):
        """Log prior of parameters ``(B, 7)``; ``norm`` is the root sum of squares of the models of unit flux."""
        parameters = torch.from_numpy(parameters)
        snr = parameters[:, 0] * torch.from_numpy(norm)
        gain = torch.full((len(parameters),), self.gain, dtype=torch.float64)
        return PRIOR.log_prob(parameters, self.shape, snr, gain).numpy()

    def unit_models(self, parameters):
        """Models of unit flux, in pieces: rows and stamps."""
        parameters = torch.from_numpy(parameters).float()
        parameters[:, 0] = 1.0
        for rows in np.array_split(np.arange(len(parameters)), -(-len(parameters) // PIECE)):
            yield rows, render_sersic(parameters[rows[0] : rows[-1] + 1], self.psf)

    def log_posterior(self, parameters):
        """Log posterior ``(B,)`` of parameters ``(B, 7)``, not normalised."""
        result = np.full(len(parameters), -np.inf)
        for rows, unit in self.unit_models(parameters):
            norm = unit.flatten(1).norm(dim=1).double().numpy()
            model = torch.from_numpy(parameters[rows, 0, None, None]).float() * unit
            result[rows] = self.log_likelihood(model) + self.log_prior(parameters[rows], norm)
        return result


class FluxFree:
    """Posterior of six unbounded variables, the flux drawn given them: a target of `sample_posterior`.

    Variables are those of index, radius, shear (in a plane where the prior is smooth: ``|g|`` goes as the square of
    the distance from its origin) and centre. The flux comes from a normal distribution within its bounds, of which
    the density is divided by; so the target's exponential has the posterior of the variables as expectation.

    Parameters
    ----------
    galaxy : Galaxy
        Whose.
    rng : numpy.random.Generator
        Of the fluxes.
    """

    ranges = (PRIOR.n, PRIOR.r_eff)

    def __init__(self, galaxy, rng):
        self.galaxy, self.rng = galaxy, rng

    def parameters(self, u):
        """Parameters ``(S, 7)`` of variables ``(S, 6)``, with a flux of 1, and the log of the volume's change."""
        parameters, log_volume = np.ones((len(u), 7)), np.zeros(len(u))
        for i, limits in enumerate(self.ranges):
            width = limits.upper - limits.lower
            parameters[:, 1 + i] = limits.lower + width * expit(u[:, i])
            log_volume += np.log(width) + log_expit(u[:, i]) + log_expit(-u[:, i])
        distance = np.hypot(u[:, 2], u[:, 3]) + 1e-30
        root = np.tanh(distance)
        g_max = PRIOR.shear.g_max
        parameters[:, 3:5] = (g_max * root**2 / distance)[:, None] * u[:, 2:4]
        log_cosh = distance + np.log1p(np.exp(-2 * distance)) - np.log(2)
        log_volume += np.log(2 * g_max**2 / distance) + 3 * np.log(root) - 2 * log_cosh
        width = 2 * PRIOR.centre
        parameters[:, 5:] = self.galaxy.middle - PRIOR.centre + width * expit(u[:, 4:])
        log_volume += (np.log(width) + log_expit(u[:, 4:]) + log_expit(-u[:, 4:])).sum(1)
        return parameters, log_volume

    def variables(self, parameters):
        """Variables ``(S, 6)`` of parameters ``(S, 7)`` within the prior."""
        u = np.empty((len(parameters), 6))
        for i, limits in enumerate(self.ranges):
            u[:, i] = logit((parameters[:, 1 + i] - limits.lower) / (limits.upper - limits.lower))
        g = np.hypot(parameters[:, 3], parameters[:, 4]) + 1e-30
        u[:, 2:4] = (np.arctanh(np.sqrt(g / PRIOR.shear.g_max)) / g)[:, None] * parameters[:, 3:5]
        u[:, 4:] = logit((parameters[:, 5:] - self.galaxy.middle) / (2 * PRIOR.centre) + 0.5)
        return u

    def __call__(self, u):
        """Log density, shape ``(S,)``, and parameters with a drawn flux, shape ``(S, 7)``."""
        parameters, log_volume = self.parameters(u)
        result = np.full(len(u), -np.inf)
        for rows, unit in self.galaxy.unit_models(parameters):
            norm = unit.flatten(1).norm(dim=1).double().numpy()
            flux, log_density = self._draw_flux(unit, norm)
            parameters[rows, 0] = flux
            model = torch.from_numpy(flux[:, None, None]).float() * unit
            total = self.galaxy.log_likelihood(model) + self.galaxy.log_prior(parameters[rows], norm) - log_density
            result[rows] = np.where(np.isfinite(log_density), total, -np.inf)
        return result + log_volume, parameters

    def _draw_flux(self, unit, norm):
        """Fluxes ``(B,)`` of models of unit flux within the prior, and their log density; NaN where none is."""
        electrons, gain = PRIOR.electrons, self.galaxy.gain
        lower = np.maximum(electrons.lower / gain, PRIOR.snr.lower / norm)
        upper = np.minimum(electrons.upper / gain, PRIOR.snr.upper / norm)
        by_image = (unit * self.galaxy.image).flatten(1).sum(1, dtype=torch.float64).numpy()
        guess = np.clip(by_image / norm**2, lower, np.maximum(lower, upper))
        light = torch.from_numpy(guess[:, None, None]).float() * unit
        weighted = unit / (1.0 + light.clamp_min(0.0) / gain)
        information = (weighted * unit).flatten(1).sum(1, dtype=torch.float64).numpy()
        by_image = (weighted * self.galaxy.image).flatten(1).sum(1, dtype=torch.float64).numpy()
        mean, std = by_image / information, _FLUX_STRETCH / np.sqrt(information)
        return _truncated_normal(self.rng, mean, std, lower, upper)


def _truncated_normal(rng, mean, std, lower, upper):
    """Draws of normal distributions between bounds and their log densities; NaN where there is nothing between."""
    low, high = (lower - mean) / std, (upper - mean) / std
    side = np.where(low > 0, -1.0, 1.0)  # the lower tail is exact in floating point
    low, high = np.minimum(side * low, side * high), np.maximum(side * low, side * high)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.where((lower < upper), ndtr(high) - ndtr(low), 0.0)
        z = ndtri(ndtr(low) + mass * rng.random(len(mean)))
        log_mass = log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
        log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(std) - log_mass
    draws = np.clip(mean + std * side * z, lower, upper)
    failed = ~((mass > 0) & np.isfinite(z) & np.isfinite(log_density))
    return np.where(failed, lower, draws), np.where(failed, np.nan, log_density)


def starting_mixtures(target, solution, covariance, rng):
    """First proposal and the wide one, from a maximum-likelihood fit ``(7,)`` in the galaxy's units."""
    usable = np.isfinite(solution).all() and np.isfinite(covariance).all()
    draws = np.empty((0, 7))
    if usable:
        value, vector = np.linalg.eigh(covariance)
        draws = solution + (rng.standard_normal((4000, 7)) * np.sqrt(value.clip(0))) @ vector.T
        inside = PRIOR.shear.contains(*torch.from_numpy(draws[:, 3:5]).unbind(1)).numpy()
        for column, limits in zip((1, 2), target.ranges, strict=True):
            inside &= (draws[:, column] > limits.lower) & (draws[:, column] < limits.upper)
        inside &= (np.abs(draws[:, 5:] - target.galaxy.middle) < PRIOR.centre).all(1)
        draws = draws[inside]
    mean, std = np.zeros(6), np.array([*_WIDE_STD, 1.0, 1.0])
    if len(draws) >= 30:
        u = target.variables(draws)
        local = u.mean(0), np.cov(u.T) + _LEAST_STD**2 * np.eye(6)
        mean[4:] = local[0][4:]
        std[4:] = np.clip(3.0 * np.sqrt(np.diag(local[1])[4:]), 0.2, 1.5)
    wide = Mixture.of_moments([1.0], mean[None], np.diag(std**2)[None])
    if len(draws) < 30:
        return wide, wide
    near = Mixture.of_moments([0.7, 0.3], [local[0]] * 2, [local[1], 4.0 * local[1]])
    return near.joined(wide, 0.5), wide


def log_density(galaxy, parameters):
    """Log posterior ``(B,)`` of parameters ``(B, 7)``, without rendering what lies outside the prior."""
    result = np.full(len(parameters), -np.inf)
    flux, n, r_eff, g1, g2, x, y = torch.from_numpy(parameters).unbind(1)
    inside = PRIOR.n.contains(n) & PRIOR.r_eff.contains(r_eff) & PRIOR.shear.contains(g1, g2) & (flux > 0)
    for value, middle in zip((x, y), galaxy.middle, strict=True):
        inside &= (value - middle).abs() <= PRIOR.centre
    inside = inside.numpy()
    if inside.any():
        result[inside] = galaxy.log_posterior(parameters[inside])
    return result


def first_walkers(galaxy, solution, rng, count):
    """Values ``(count, 7)`` of the prior, with fluxes about that of a solution ``(7,)``: where Markov chains start."""
    lower = np.array([PRIOR.n.lower, PRIOR.r_eff.lower, -0.3, -0.3, *(galaxy.middle - 0.2)])
    upper = np.array([PRIOR.n.upper, PRIOR.r_eff.upper, 0.3, 0.3, *(galaxy.middle + 0.2)])
    found = np.empty((0, 7))
    while len(found) < count:
        values = np.column_stack([np.ones(4 * count), rng.uniform(lower, upper, (4 * count, 6))])
        values[:, 0] = solution[0] * np.exp(rng.normal(0.0, 0.2, len(values)))
        found = np.concatenate([found, values[np.isfinite(log_density(galaxy, values))]])
    return found[:count]
