"""Distributions of one parameter or of the shear: uniform, lognormal, sizes that follow the brightness, the disc."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Disc", "LogNormal", "Range", "SizeRelation"]

_REFERENCE_SNR = 50.0
_REFERENCE_FWHM = 3.5


@dataclass(frozen=True)
class Range:
    """A uniform distribution, of a number or of its logarithm.

    Parameters
    ----------
    lower, upper : float
        Bounds of the distribution.
    log : bool, optional
        Uniform in the logarithm.
    """

    lower: float
    upper: float
    log: bool = False

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not self.lower < self.upper or (self.log and self.lower <= 0):
            msg = f"lower must be below upper (and positive for a logarithmic range), not {self.lower}, {self.upper}"
            raise ValueError(msg)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw ``(count,)`` values."""
        unit = torch.rand(count, generator=generator, device=device)
        if self.log:
            return self.lower * torch.exp(unit * math.log(self.upper / self.lower))
        return self.lower + unit * (self.upper - self.lower)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, minus infinity outside."""
        if self.log:
            inside_value = -torch.log(value) - math.log(math.log(self.upper / self.lower))
        else:
            inside_value = torch.full_like(value, -math.log(self.upper - self.lower))
        return torch.where(self.contains(value), inside_value, -torch.inf)

    def contains(self, value: Tensor, margin: float = 0.0) -> Tensor:
        """Boolean, True where values lie within the bounds, widened by ``margin`` times the width of the range."""
        if self.log:
            slack = math.exp(margin * math.log(self.upper / self.lower))
            return (value >= self.lower / slack) & (value <= self.upper * slack)
        slack = margin * (self.upper - self.lower)
        return (value >= self.lower - slack) & (value <= self.upper + slack)


@dataclass(frozen=True)
class LogNormal:
    """A normal distribution of the logarithm of a number, cut off at bounds.

    Parameters
    ----------
    median : float or Tensor
        Median before the distribution is cut off; a tensor of shape ``(count,)`` gives each draw its own.
    scatter : float
        Standard deviation of the natural logarithm before the distribution is cut off.
    lower, upper : float
        Bounds of the distribution, both positive.
    """

    median: float
    scatter: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not 0.0 < self.lower < self.upper:
            msg = f"lower must be positive and below upper, not {self.lower}, {self.upper}"
            raise ValueError(msg)
        if not self.scatter > 0.0:
            msg = f"scatter must be positive, not {self.scatter}"
            raise ValueError(msg)

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw ``(count,)`` values."""
        centre, low, high = self._standardised(device)
        unit = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        z = torch.special.ndtri(low + unit * (high - low))
        return torch.exp(centre + self.scatter * z).clamp(self.lower, self.upper).float()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, minus infinity outside."""
        centre, low, high = self._standardised(value.device)
        log_value = torch.log(value.clamp_min(1e-30))
        z = (log_value - centre) / self.scatter
        density = -0.5 * z**2 - log_value - math.log(self.scatter * math.sqrt(2.0 * math.pi)) - torch.log(high - low)
        return torch.where(self.contains(value), density.to(value.dtype), -torch.inf)

    def contains(self, value: Tensor, margin: float = 0.0) -> Tensor:
        """Boolean, True where values lie within the bounds, widened by ``margin`` times the width in the logarithm."""
        return Range(self.lower, self.upper, log=True).contains(value, margin)

    def _standardised(self, device):
        """Logarithm of the median, and the probabilities below the bounds."""
        centre = torch.as_tensor(self.median, dtype=torch.float64, device=device).log()
        bounds = ((math.log(bound) - centre) / self.scatter for bound in (self.lower, self.upper))
        return centre, *(torch.special.ndtr(bound) for bound in bounds)


@dataclass(frozen=True)
class SizeRelation:
    """Lognormal sizes whose median follows the signal-to-noise ratio and the width of the PSF.

    Parameters
    ----------
    median : float
        Median of r_eff, in pixels, at a signal-to-noise ratio of 50 and a PSF of 3.5 pixels.
    scatter : float
        Standard deviation of the natural logarithm.
    lower, upper : float
        Bounds of the sizes, in pixels.
    snr_power, fwhm_power : float, optional
        Powers of the signal-to-noise ratio and of the width of the PSF with which the median grows.
    """

    median: float
    scatter: float
    lower: float
    upper: float
    snr_power: float = 0.0
    fwhm_power: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        LogNormal(self.median, self.scatter, self.lower, self.upper)

    def at(self, snr: Tensor, psf_fwhm: Tensor | None) -> LogNormal:
        """Return the distribution of sizes, a `LogNormal`, at given ratios and widths ``(count,)``."""
        median = self.median * (snr / _REFERENCE_SNR) ** self.snr_power
        if self.fwhm_power != 0.0:
            median = median * (psf_fwhm / _REFERENCE_FWHM) ** self.fwhm_power
        return LogNormal(median, self.scatter, self.lower, self.upper)

    def contains(self, value: Tensor, margin: float = 0.0) -> Tensor:
        """Boolean, True where values lie within the bounds, widened by ``margin`` times the width in the logarithm."""
        return Range(self.lower, self.upper, log=True).contains(value, margin)


@dataclass(frozen=True)
class Disc:
    """A distribution of the reduced shear, isotropic, within ``|g| < g_max``.

    Parameters
    ----------
    g_max : float
        Largest modulus of the shear, ``|g|``.
    concentration : float or None, optional
        Density in the plane proportional to ``(1 - (|g| / g_max)**2) ** concentration``; None is uniform in ``|g|``
        (a density that diverges at 0, as the study has it).
    """

    g_max: float
    concentration: float | None = None

    def sample(
        self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Draw ``(count,)`` values of g1 and g2."""
        radius = torch.rand(count, generator=generator, device=device)
        if self.concentration is not None:
            radius = torch.sqrt(1.0 - (1.0 - radius) ** (1.0 / (self.concentration + 1.0)))
        angle = 2.0 * torch.pi * torch.rand(count, generator=generator, device=device)
        return self.g_max * radius * torch.cos(angle), self.g_max * radius * torch.sin(angle)

    def log_prob(self, g1: Tensor, g2: Tensor) -> Tensor:
        """Log density in the plane, minus infinity outside."""
        radius = torch.hypot(g1, g2)
        if self.concentration is None:
            inside = -torch.log(radius.clamp_min(1e-12)) - math.log(2.0 * math.pi * self.g_max)
        else:
            fall = (1.0 - (radius / self.g_max) ** 2).clamp_min(1e-30)
            inside = self.concentration * torch.log(fall)
            inside = inside + math.log((self.concentration + 1.0) / (math.pi * self.g_max**2))
        return torch.where(radius < self.g_max, inside, -torch.inf)

    def contains(self, g1: Tensor, g2: Tensor, margin: float = 0.0) -> Tensor:
        """Boolean, True where shears lie within the disc, widened by ``margin`` times its radius."""
        return torch.hypot(g1, g2) < self.g_max * (1.0 + margin)
