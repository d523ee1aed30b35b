"""Priors of the Sersic parameters: sample, log density, domain.

One prior serves simulation, calibration and the re-weighting of posteriors. Lengths are in pixels and brightness is a
signal-to-noise ratio or a number of electrons, so that a prior holds for any survey.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galmeasure.priors.distributions import Disc, LogNormal, Range, SizeRelation

__all__ = ["Disc", "LogNormal", "Population", "Prior", "Range", "SizeRelation", "get_prior", "prior_from_dict"]

STUDY_PIXEL_SCALE = 0.23
"""Arcsec per pixel of the study's data sets."""


@dataclass(frozen=True)
class Population:
    """One kind of galaxy within a prior.

    Parameters
    ----------
    name : str
        Name of the population, for the documentation.
    fraction : float
        Share of the galaxies that are of this kind; shares are relative to their sum.
    n : Range or LogNormal
        Distribution of the Sersic index.
    r_eff : Range, LogNormal or SizeRelation
        Distribution of the circularised half-light radius, in pixels.
    shear : Disc
        Distribution of the reduced shear.
    """

    name: str
    fraction: float
    n: Range | LogNormal
    r_eff: Range | LogNormal | SizeRelation
    shear: Disc

    def __post_init__(self) -> None:
        """Check the share."""
        if not self.fraction > 0.0:
            msg = f"fraction must be positive, not {self.fraction}"
            raise ValueError(msg)

    def sample(
        self,
        count: int,
        snr: Tensor,
        psf_fwhm: Tensor,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw n, r_eff, g1 and g2, each of shape ``(count,)``."""
        n = self.n.sample(count, generator, device)
        r_eff = _sizes(self.r_eff, snr, psf_fwhm).sample(count, generator, device)
        return n, r_eff, *self.shear.sample(count, generator, device)

    def log_prob(self, n: Tensor, r_eff: Tensor, g1: Tensor, g2: Tensor, snr: Tensor, psf_fwhm: Tensor) -> Tensor:
        """Log density of n, r_eff and shear."""
        size = _sizes(self.r_eff, snr, psf_fwhm).log_prob(r_eff)
        return self.n.log_prob(n) + size + self.shear.log_prob(g1, g2)


def _sizes(r_eff, snr, psf_fwhm):
    """Distribution of sizes where signal-to-noise ratio and PSF are known."""
    return r_eff.at(snr, psf_fwhm) if isinstance(r_eff, SizeRelation) else r_eff


@dataclass(frozen=True)
class Prior:
    """A joint prior of the seven parameters, and of the PSF's width that goes with it.

    Parameters
    ----------
    name : str
        Name of the prior.
    n : Range
        Domain of the Sersic index.
    r_eff : Range
        Domain of the circularised half-light radius, in pixels.
    shear : Disc
        Domain of the reduced shear.
    centre : float
        The centre is uniform within so many pixels of the stamp's centre, in x and in y; 0 is fixed.
    snr : Range
        Signal-to-noise ratio: the distribution of the flux where ``electrons`` is None, else a cut.
    psf_fwhm : Range
        Full width at half maximum of the PSF, in pixels.
    electrons : Range, optional
        Distribution of the flux in electrons.
    populations : tuple of Population, optional
        Kinds of galaxies within the domain, of which the prior is a mixture. By default index, size and shear are
        independent and distributed as their domains are.

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
    populations: tuple[Population, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.centre < 0:
            msg = f"centre must not be negative, not {self.centre}"
            raise ValueError(msg)
        for population in self.populations:
            for field in ("n", "r_eff"):
                domain, distribution = getattr(self, field), getattr(population, field)
                if distribution.lower < domain.lower or distribution.upper > domain.upper:
                    msg = (
                        f"populations: {field} of {population.name!r} must lie within {domain.lower} to {domain.upper}"
                    )
                    raise ValueError(msg)
            if population.shear.g_max > self.shear.g_max:
                msg = f"populations: g_max of {population.name!r} must not be above {self.shear.g_max}"
                raise ValueError(msg)
            if isinstance(population.r_eff, SizeRelation) and self.electrons is not None:
                msg = f"populations: r_eff of {population.name!r} cannot follow the S/N where the flux is in electrons"
                raise ValueError(msg)

    def sample(
        self,
        count: int,
        shape: tuple[int, int] | Tensor,
        *,
        snr: Tensor | None = None,
        psf_fwhm: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw parameters, with the flux still open.

        Parameters
        ----------
        count : int
            Number of galaxies to draw.
        shape : tuple of int or Tensor
            Sides of the stamp ``(ny, nx)``, or shapes ``(count, 2)``.
        snr, psf_fwhm : Tensor, optional
            Signal-to-noise ratio and width of the PSF of each galaxy, shape ``(count,)``, which the sizes of a
            population may follow; drawn from the prior by default.
        generator : torch.Generator, optional
            Source of the random numbers, on the same device.
        device : str, optional
            Torch device of the result.

        Returns
        -------
        Tensor
            Shape ``(count, 7)``; the flux is 1 where it follows from the signal-to-noise ratio, else in electrons.
        """
        shape_columns = self._sample_shapes(count, snr, psf_fwhm, generator, device)
        middle = (torch.as_tensor(shape, device=device, dtype=torch.float32).expand(count, 2) - 1.0) / 2.0
        offset = self.centre * (2.0 * torch.rand((count, 2), generator=generator, device=device) - 1.0)
        if self.electrons is None:
            flux = torch.ones(count, device=device)
        else:
            flux = self.electrons.sample(count, generator, device)
        return torch.stack([flux, *shape_columns, middle[:, 1] + offset[:, 0], middle[:, 0] + offset[:, 1]], 1)

    def log_prob(
        self,
        parameters: Tensor,
        shape: tuple[int, int],
        snr: Tensor,
        gain: Tensor | None = None,
        psf_fwhm: Tensor | None = None,
    ) -> Tensor:
        """Log density of parameters.

        Parameters
        ----------
        parameters : Tensor
            Sersic parameters, shape ``(B, 7)``, flux in the unit of the stamp.
        shape : tuple of int
            Sides of the stamp ``(ny, nx)``, pixels.
        snr : Tensor
            Signal-to-noise ratio of each galaxy's model, shape ``(B,)``.
        gain : Tensor, optional
            Electrons per unit, shape ``(B,)``; needed where the prior is one of electrons.
        psf_fwhm : Tensor, optional
            Width of each galaxy's PSF before the pixel's response, in pixels, shape ``(B,)``; needed where the sizes
            of a population follow it.

        Returns
        -------
        Tensor
            Shape ``(B,)``, not normalised for the cut in signal-to-noise ratio.

        Raises
        ------
        ValueError
            If the prior is one of electrons and there is no gain, or ``psf_fwhm`` is needed and not given.
        """
        flux, n, r_eff, g1, g2, x, y = parameters.unbind(-1)
        total = self.log_prob_shapes(n, r_eff, g1, g2, snr, psf_fwhm)
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

    @property
    def follows_psf(self) -> bool:
        """True if the sizes of a population follow the width of the PSF."""
        return any(
            isinstance(population.r_eff, SizeRelation) and population.r_eff.fwhm_power
            for population in self.populations
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a card; `prior_from_dict` is the inverse."""
        return _plain(dataclasses.asdict(self))

    def _sample_shapes(self, count, snr, psf_fwhm, generator, device):
        """Draw n, r_eff, g1 and g2."""
        if not self.populations:
            g1, g2 = self.shear.sample(count, generator, device)
            return self.n.sample(count, generator, device), self.r_eff.sample(count, generator, device), g1, g2
        snr = self.snr.sample(count, generator, device) if snr is None else snr
        psf_fwhm = self.psf_fwhm.sample(count, generator, device) if psf_fwhm is None else psf_fwhm
        fractions = torch.tensor([population.fraction for population in self.populations], device=device)
        edges = torch.cumsum(fractions / fractions.sum(), 0)[:-1]
        kind = torch.bucketize(torch.rand(count, generator=generator, device=device), edges)
        columns = torch.empty((4, count), device=device)
        for i, population in enumerate(self.populations):
            rows = torch.nonzero(kind == i)[:, 0]
            drawn = population.sample(len(rows), snr[rows], psf_fwhm[rows], generator, device)
            columns[:, rows] = torch.stack(drawn)
        return tuple(columns)

    def log_prob_shapes(
        self, n: Tensor, r_eff: Tensor, g1: Tensor, g2: Tensor, snr: Tensor, psf_fwhm: Tensor | None = None
    ) -> Tensor:
        """Log density of index, size and shear.

        Parameters
        ----------
        n, r_eff, g1, g2 : Tensor
            Sersic index, half-light radius in pixels, and reduced shear, each of shape ``(B,)``.
        snr : Tensor
            Signal-to-noise ratio of each galaxy, shape ``(B,)``.
        psf_fwhm : Tensor, optional
            Width of each PSF in pixels, as in `log_prob`.

        Returns
        -------
        Tensor
            Shape ``(B,)``, minus infinity outside the prior.
        """
        if not self.populations:
            return self.n.log_prob(n) + self.r_eff.log_prob(r_eff) + self.shear.log_prob(g1, g2)
        if psf_fwhm is None and self.follows_psf:
            msg = f"psf_fwhm is needed: the sizes of prior {self.name!r} follow the width of the PSF"
            raise ValueError(msg)
        snr = snr.clamp(self.snr.lower, self.snr.upper)
        total = sum(population.fraction for population in self.populations)
        terms = [
            population.log_prob(n, r_eff, g1, g2, snr, psf_fwhm) + math.log(population.fraction / total)
            for population in self.populations
        ]
        return torch.logsumexp(torch.stack(terms), 0)

    def contains(
        self,
        parameters: Tensor,
        shape: tuple[int, int],
        snr: Tensor,
        psf_fwhm: Tensor | None = None,
        *,
        margin: float = 0.0,
    ) -> Tensor:
        """Tell which parameters (and PSF widths) lie in the domain.

        Parameters
        ----------
        parameters : Tensor
            Sersic parameters, shape ``(B, 7)``.
        shape : tuple of int
            Sides of the stamp ``(ny, nx)``, pixels.
        snr : Tensor
            Signal-to-noise ratio of each galaxy, shape ``(B,)``.
        psf_fwhm : Tensor, optional
            Width of each PSF in pixels, shape ``(B,)``.
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


_GALAXIES = (
    Population(
        name="discs",
        fraction=0.55,
        n=LogNormal(1.1, 0.45, 0.3, 8.0),
        r_eff=SizeRelation(2.2, 0.7, 0.2, 16.0, snr_power=0.2, fwhm_power=-0.6),
        shear=Disc(0.9, concentration=1.5),
    ),
    Population(
        name="spheroids",
        fraction=0.2,
        n=LogNormal(3.0, 0.45, 0.3, 8.0),
        r_eff=SizeRelation(2.2, 0.8, 0.2, 16.0, snr_power=0.2, fwhm_power=-0.6),
        shear=Disc(0.9, concentration=5.0),
    ),
    Population(
        name="anything",
        fraction=0.2,
        n=Range(0.3, 8.0),
        r_eff=Range(0.2, 16.0, log=True),
        shear=Disc(0.9, concentration=2.0),
    ),
    Population(
        name="stars",
        fraction=0.05,
        n=Range(0.3, 8.0),
        r_eff=Range(0.05, 0.3, log=True),
        shear=Disc(0.9, concentration=2.0),
    ),
)

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
        Prior(
            name="galaxies",
            n=Range(0.3, 8.0),
            r_eff=Range(0.05, 16.0, log=True),
            shear=Disc(0.9, concentration=2.0),
            centre=1.5,
            snr=Range(5.0, 1000.0, log=True),
            psf_fwhm=Range(1.2, 7.0),
            populations=_GALAXIES,
        ),
    )
}
"""Named priors.

``survey`` is flat: uniform in the index and in the logarithm of the size. ``study`` is that of the study's data sets.
``galaxies`` has its mass where galaxies are: discs, spheroids and a few stars, with a fifth of it spread over the
whole domain of ``survey``. Its indices follow the two peaks of single Sersic fits to Hubble images (Griffith et al.
2012, ApJS 200, 9), its axis ratios are those of randomly oriented discs and of rounder spheroids (van der Wel et al.
2014, ApJ 792, L6), and its sizes grow with brightness (Shibuya et al. 2015, ApJS 219, 15) and, in pixels, are the
larger the finer an instrument samples the sky. The numbers are rounded: they are to be broad, not exact.
"""


def get_prior(name: str | Prior) -> Prior:
    """Look up a prior by its name.

    Parameters
    ----------
    name : str or Prior
        One of ``PRIORS``: ``"galaxies"``, ``"survey"`` or ``"study"``; a prior is returned as it is.

    Returns
    -------
    Prior
        The prior of that name.

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
    if isinstance(name, Prior):
        return name
    if name not in PRIORS:
        msg = f"name must be one of {', '.join(PRIORS)}, not {name!r}"
        raise ValueError(msg)
    return PRIORS[name]


def prior_from_dict(values: dict[str, Any] | str) -> Prior:
    """Build a prior from plain values, as a card or a TOML file holds them.

    Parameters
    ----------
    values : dict or str
        Fields of `Prior`; a distribution is a table of the fields of its class (``lower``, ``upper`` and ``log`` of a
        `Range`; ``median``, ``scatter``, ``lower`` and ``upper`` of a `LogNormal`, with ``snr_power`` or
        ``fwhm_power`` of a `SizeRelation`; ``g_max`` and ``concentration`` of a `Disc`), or a list of the two bounds
        of a `Range`. A text is the name of a prior. ``base`` names a prior whose fields hold where none are given.

    Returns
    -------
    Prior
        The prior.

    Raises
    ------
    ValueError
        If a field is missing, not known or wrong; the message names it.

    Examples
    --------
    >>> from galmeasure.priors import prior_from_dict
    >>> prior = prior_from_dict({"base": "survey", "name": "bright", "snr": {"lower": 50, "upper": 500, "log": True}})
    >>> prior.snr
    Range(lower=50, upper=500, log=True)
    """
    if isinstance(values, str):
        return get_prior(values)
    if not isinstance(values, dict):
        msg = f"prior must be a name or a table, not {type(values).__name__}"
        raise ValueError(msg)
    values = dict(values)
    base = values.pop("base", None)
    defaults = (
        {}
        if base is None
        else {entry.name: getattr(get_prior(base), entry.name) for entry in dataclasses.fields(Prior)}
    )
    populations = values.pop("populations", None)
    if not isinstance(populations, list | tuple | None):
        msg = f"prior.populations must be a list of tables, not {populations!r}"
        raise ValueError(msg)
    built = {name: _distribution(f"prior.{name}", value) for name, value in values.items()}
    if populations is not None:
        built["populations"] = tuple(
            _build(f"prior.populations[{i}]", Population, entry) for i, entry in enumerate(populations)
        )
    return _construct("prior", Prior, defaults | built)


_ALLOWED = {
    Prior: {"n": (Range,), "r_eff": (Range,), "shear": (Disc,), "snr": (Range,), "psf_fwhm": (Range,)},
    Population: {"n": (Range, LogNormal), "r_eff": (Range, LogNormal, SizeRelation), "shear": (Disc,)},
}


def _build(where, kind, values):
    if not isinstance(values, dict):
        msg = f"{where} must be a table, not {values!r}"
        raise ValueError(msg)
    return _construct(where, kind, {name: _distribution(f"{where}.{name}", value) for name, value in values.items()})


def _construct(where, kind, values):
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name for name, entry in fields.items() if entry.default is dataclasses.MISSING and name not in values
    )
    for names, problem in ((unknown, "must hold only the fields of"), (missing, "must hold all fields of")):
        if names:
            msg = f"{where} {problem} {kind.__name__}: {', '.join(names)}"
            raise ValueError(msg)
    for name, allowed in _ALLOWED.get(kind, {}).items():
        if not isinstance(values[name], allowed):
            kinds = " or ".join(entry.__name__ for entry in allowed)
            msg = f"{where}.{name} must be a {kinds}, not {values[name]!r}"
            raise ValueError(msg)
    try:
        return kind(**values)
    except (TypeError, ValueError) as err:
        msg = f"{where}: {err}"
        raise ValueError(msg) from err


def _distribution(where, value):
    """Distribution of a table or of a list of two bounds; other values as they are."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return _construct(where, Range, {"lower": value[0], "upper": value[1]})
    if not isinstance(value, dict):
        return value
    for kind, sign in (
        (Disc, "g_max"),
        (SizeRelation, "snr_power"),
        (SizeRelation, "fwhm_power"),
        (LogNormal, "median"),
    ):
        if sign in value:
            return _construct(where, kind, value)
    return _construct(where, Range, value)


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
