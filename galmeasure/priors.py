"""Priors of the Sersic parameters: sample, log density, domain.

One prior serves simulation, calibration and the re-weighting of posteriors. Lengths are in pixels and brightness is a
signal-to-noise ratio or a number of electrons, so that a prior holds for any survey.
"""

import math
from dataclasses import dataclass

import torch

__all__ = ["Disc", "Prior", "Range", "get_prior"]

STUDY_PIXEL_SCALE = 0.23
"""Arcsec per pixel of the study's data sets."""


@dataclass(frozen=True)
class Range:
    """A uniform distribution, of a number or of its logarithm.

    Parameters
    ----------
    lower, upper : float
        Bounds.
    log : bool, optional
        Uniform in the logarithm.
    """

    lower: float
    upper: float
    log: bool = False

    def __post_init__(self):
        """Check the bounds."""
        if not self.lower < self.upper or (self.log and self.lower <= 0):
            msg = f"lower must be below upper (and positive for a logarithmic range), not {self.lower}, {self.upper}"
            raise ValueError(msg)

    def sample(self, count, generator=None, device="cpu"):
        """Draw ``(count,)`` values."""
        unit = torch.rand(count, generator=generator, device=device)
        if self.log:
            return self.lower * torch.exp(unit * math.log(self.upper / self.lower))
        return self.lower + unit * (self.upper - self.lower)

    def log_prob(self, value):
        """Log density, minus infinity outside."""
        if self.log:
            inside_value = -torch.log(value) - math.log(math.log(self.upper / self.lower))
        else:
            inside_value = torch.full_like(value, -math.log(self.upper - self.lower))
        return torch.where(self.contains(value), inside_value, -torch.inf)

    def contains(self, value, margin=0.0):
        """Whether values lie within the bounds, widened by ``margin`` times the width of the range."""
        if self.log:
            slack = math.exp(margin * math.log(self.upper / self.lower))
            return (value >= self.lower / slack) & (value <= self.upper * slack)
        slack = margin * (self.upper - self.lower)
        return (value >= self.lower - slack) & (value <= self.upper + slack)


@dataclass(frozen=True)
class Disc:
    """A distribution of the reduced shear, isotropic, within ``|g| < g_max``.

    Parameters
    ----------
    g_max : float
        Largest ``|g|``.
    concentration : float or None, optional
        Density in the plane proportional to ``(1 - (|g| / g_max)**2) ** concentration``; None is uniform in ``|g|``
        (a density that diverges at 0, as the study has it).
    """

    g_max: float
    concentration: float | None = None

    def sample(self, count, generator=None, device="cpu"):
        """Draw ``(count,)`` values of g1 and g2."""
        radius = torch.rand(count, generator=generator, device=device)
        if self.concentration is not None:
            radius = torch.sqrt(1.0 - (1.0 - radius) ** (1.0 / (self.concentration + 1.0)))
        angle = 2.0 * torch.pi * torch.rand(count, generator=generator, device=device)
        return self.g_max * radius * torch.cos(angle), self.g_max * radius * torch.sin(angle)

    def log_prob(self, g1, g2):
        """Log density in the plane, minus infinity outside."""
        radius = torch.hypot(g1, g2)
        if self.concentration is None:
            inside = -torch.log(radius.clamp_min(1e-12)) - math.log(2.0 * math.pi * self.g_max)
        else:
            fall = (1.0 - (radius / self.g_max) ** 2).clamp_min(1e-30)
            inside = self.concentration * torch.log(fall)
            inside = inside + math.log((self.concentration + 1.0) / (math.pi * self.g_max**2))
        return torch.where(radius < self.g_max, inside, -torch.inf)

    def contains(self, g1, g2, margin=0.0):
        """Whether shears lie within the disc, widened by ``margin`` times its radius."""
        return torch.hypot(g1, g2) < self.g_max * (1.0 + margin)


@dataclass(frozen=True)
class Prior:
    """A joint prior of the seven parameters, and of the PSF's width that goes with it.

    Parameters
    ----------
    name : str
        Name in the registry.
    n : Range
        Sersic index.
    r_eff : Range
        Circularised half-light radius, pixels.
    shear : Disc
        Reduced shear.
    centre : float
        The centre is uniform within so many pixels of the stamp's centre, in x and in y; 0 is fixed.
    snr : Range
        Signal-to-noise ratio: the distribution of the flux where ``electrons`` is None, else a cut.
    psf_fwhm : Range
        Width of the PSF, pixels.
    electrons : Range, optional
        Distribution of the flux in electrons.

    Notes
    -----
    Where the flux follows from the signal-to-noise ratio, its density is that of the ratio times the derivative of
    the ratio's logarithm by the flux's, which is 1 without shot noise; callers that have shot noise add it.
    """

    name: str
    n: Range
    r_eff: Range
    shear: Disc
    centre: float
    snr: Range
    psf_fwhm: Range
    electrons: Range | None = None

    def __post_init__(self):
        """Check the numbers."""
        if self.centre < 0:
            msg = f"centre must not be negative, not {self.centre}"
            raise ValueError(msg)

    def sample(self, count, shape, *, generator=None, device="cpu"):
        """Draw parameters, with the flux still open.

        Parameters
        ----------
        count : int
            How many.
        shape : tuple of int or Tensor
            Stamp ``(ny, nx)``, or shapes ``(count, 2)``.
        generator : torch.Generator, optional
            Of the device.
        device : str, optional
            Where.

        Returns
        -------
        Tensor
            Shape ``(count, 7)``; the flux is 1 where it follows from the signal-to-noise ratio, else in electrons.
        """
        g1, g2 = self.shear.sample(count, generator, device)
        middle = (torch.as_tensor(shape, device=device, dtype=torch.float32).expand(count, 2) - 1.0) / 2.0
        offset = self.centre * (2.0 * torch.rand((count, 2), generator=generator, device=device) - 1.0)
        if self.electrons is None:
            flux = torch.ones(count, device=device)
        else:
            flux = self.electrons.sample(count, generator, device)
        shape_columns = self.n.sample(count, generator, device), self.r_eff.sample(count, generator, device), g1, g2
        return torch.stack([flux, *shape_columns, middle[:, 1] + offset[:, 0], middle[:, 0] + offset[:, 1]], 1)

    def log_prob(self, parameters, shape, snr, gain=None):
        """Log density of parameters.

        Parameters
        ----------
        parameters : Tensor
            Shape ``(B, 7)``, flux in the unit of the stamp.
        shape : tuple of int
            Stamp ``(ny, nx)``.
        snr : Tensor
            Signal-to-noise ratio of each galaxy's model, shape ``(B,)``.
        gain : Tensor, optional
            Electrons per unit, shape ``(B,)``; needed where the prior is one of electrons.

        Returns
        -------
        Tensor
            Shape ``(B,)``, not normalised for the cut in signal-to-noise ratio.

        Raises
        ------
        ValueError
            If the prior is one of electrons and there is no gain.
        """
        flux, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
        total = self.n.log_prob(n) + self.r_eff.log_prob(r_eff) + self.shear.log_prob(g1, g2)
        if self.centre > 0:
            for value, side in ((x, shape[1]), (y, shape[0])):
                total = total + Range(-self.centre, self.centre).log_prob(value - (side - 1) / 2.0)
        if self.electrons is None:
            flux_term = self.snr.log_prob(snr) + torch.log(snr) - torch.log(flux.clamp_min(1e-30))
            return total + torch.where(flux > 0, flux_term, -torch.inf)
        if gain is None:
            msg = f"gain is needed: the flux of prior {self.name!r} is in electrons"
            raise ValueError(msg)
        total = total + self.electrons.log_prob(flux * gain) + torch.log(gain)
        return torch.where(self.snr.contains(snr), total, -torch.inf)

    def contains(self, parameters, shape, snr, psf_fwhm=None, *, margin=0.0):
        """Whether parameters (and PSF widths) lie in the domain.

        Parameters
        ----------
        parameters : Tensor
            Shape ``(B, 7)``.
        shape : tuple of int
            Stamp ``(ny, nx)``.
        snr : Tensor
            Shape ``(B,)``.
        psf_fwhm : Tensor, optional
            Pixels, shape ``(B,)``.
        margin : float, optional
            Widens every range by this fraction.

        Returns
        -------
        Tensor
            Boolean, shape ``(B,)``.
        """
        _, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
        inside = self.n.contains(n, margin) & self.r_eff.contains(r_eff, margin) & self.snr.contains(snr, margin)
        inside &= self.shear.contains(g1, g2, margin)
        reach = max(self.centre, 0.5) * (1.0 + margin)
        for value, side in ((x, shape[1]), (y, shape[0])):
            inside &= (value - (side - 1) / 2.0).abs() <= reach
        return inside if psf_fwhm is None else inside & self.psf_fwhm.contains(psf_fwhm, margin)


PRIORS = {
    prior.name: prior
    for prior in (
        Prior(
            name="survey",
            n=Range(0.3, 8.0),
            r_eff=Range(0.2, 16.0, log=True),
            shear=Disc(0.9, concentration=2.0),
            centre=1.5,
            snr=Range(5.0, 1000.0, log=True),
            psf_fwhm=Range(1.5, 7.0),
        ),
        Prior(
            name="study",
            n=Range(0.5, 6.0),
            r_eff=Range(0.1 / STUDY_PIXEL_SCALE, 0.6 / STUDY_PIXEL_SCALE),
            shear=Disc(0.67),
            centre=0.5,
            snr=Range(10.0, 100.0),
            psf_fwhm=Range(0.5 / STUDY_PIXEL_SCALE, 1.0 / STUDY_PIXEL_SCALE),
            electrons=Range(0.3e5, 4e5),
        ),
    )
}
"""Named priors: ``survey``, broad and dimensionless, and ``study``, that of the study's data sets."""


def get_prior(name):
    """Prior of a name.

    Parameters
    ----------
    name : str
        One of ``PRIORS``: ``"survey"`` or ``"study"``.

    Returns
    -------
    Prior
        The prior.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from galmeasure.priors import get_prior
    >>> get_prior("survey").n
    Range(lower=0.3, upper=8.0, log=False)
    """
    if name not in PRIORS:
        msg = f"name must be one of {', '.join(PRIORS)}, not {name!r}"
        raise ValueError(msg)
    return PRIORS[name]
