"""Sliders of the drawn galaxy: names, units and ranges, those of the study and wider ones."""

from dataclasses import dataclass

import numpy as np

from galmeasure.parameters import g_from_q_theta

__all__ = ["SLIDERS", "GalaxySettings", "Slider"]

_LOG_STEPS = 181
_DIGITS = 3  # significant digits of the values of a logarithmic slider


@dataclass(frozen=True)
class Slider:
    """One slider.

    Parameters
    ----------
    name : str
        Name of a field of `GalaxySettings`.
    label : str
        Text beside the slider, with the unit.
    default : float
        Value before the slider is moved.
    study, wide : tuple of float
        Lowest and highest value in the study's range and in the wider one.
    step : float
        Distance of neighbouring values.
    logarithmic : bool, optional
        Whether the wider range is divided in the logarithm.
    """

    name: str
    label: str
    default: float
    study: tuple[float, float]
    wide: tuple[float, float]
    step: float
    logarithmic: bool = False

    def limits(self, wide: bool) -> tuple[float, float]:
        """Return the lowest and the highest value.

        Parameters
        ----------
        wide : bool
            Whether the wider range is asked for.

        Returns
        -------
        tuple of float
            Limits of the slider.
        """
        return self.wide if wide else self.study

    @property
    def number_format(self) -> str:
        """Format of the value beside the slider, as many decimal places as a step has."""
        return f"%.{max(0, -int(np.floor(np.log10(self.step))))}f"

    def choices(self) -> list[float]:
        """Return the values of the wider range, evenly spaced in the logarithm, with three digits."""
        values = np.geomspace(*self.wide, _LOG_STEPS)
        return [float(f"{value:.{_DIGITS}g}") for value in values]

    def nearest(self, value: float, wide: bool) -> float:
        """Return the value of the slider that is nearest to a number.

        Parameters
        ----------
        value : float
            Number that may lie outside of the range, or between two steps.
        wide : bool
            Whether the wider range is asked for.

        Returns
        -------
        float
            Value that the slider can show.
        """
        if wide and self.logarithmic:
            return min(self.choices(), key=lambda choice: abs(np.log(choice / value)))
        low, high = self.limits(wide)
        steps = round((min(max(value, low), high) - low) / self.step)
        return min(round(low + steps * self.step, 10), high)


SLIDERS = (
    Slider("psf_fwhm", "PSF FWHM [arcsec]", 0.5, (0.5, 1.0), (0.3, 1.6), 0.01),
    Slider("r_eff", "Half-light radius r_eff [arcsec]", 0.3, (0.1, 0.6), (0.02, 2.5), 0.01),
    Slider("n", "Sersic index n", 3.0, (0.5, 6.0), (0.3, 8.0), 0.1),
    Slider("q", "Axis ratio q", 0.72, (0.2, 1.0), (0.1, 1.0), 0.01),
    Slider("theta", "Orientation [degrees]", 57.0, (0.0, 180.0), (0.0, 180.0), 1.0),
    Slider("sigma", "Noise of a pixel [adu]", 200.0, (200.0, 400.0), (5.0, 5000.0), 5.0, logarithmic=True),
    Slider("flux", "Flux [adu]", 1e5, (3e4, 4e5), (1e3, 1e7), 1e3, logarithmic=True),
)
"""Sliders in the order of the page; the defaults are the study's reference galaxy."""


@dataclass(frozen=True, kw_only=True)
class GalaxySettings:
    """Positions of all sliders: a galaxy, its PSF and its noise.

    Parameters
    ----------
    psf_fwhm : float
        Full width at half maximum of the Moffat PSF before the pixel, arcsec.
    r_eff : float
        Circularised half-light radius, arcsec.
    n : float
        Sersic index of the galaxy.
    q : float
        Axis ratio b/a of the galaxy.
    theta : float
        Position angle of the major axis in degrees, counter-clockwise from +x.
    sigma : float
        1-sigma noise of a pixel without that of the galaxy's own light, adu.
    flux : float
        Total flux, adu; the gain is one electron per adu.

    Raises
    ------
    ValueError
        If a value lies outside of the wider range of its slider.

    Examples
    --------
    >>> from galmeasure.app.sliders import GalaxySettings
    >>> settings = GalaxySettings(psf_fwhm=0.5, r_eff=0.3, n=3, q=0.5, theta=45, sigma=200, flux=1e5)
    >>> print(f"{settings.shear[1]:.3f}")
    0.333
    """

    psf_fwhm: float
    r_eff: float
    n: float
    q: float
    theta: float
    sigma: float
    flux: float

    def __post_init__(self) -> None:
        """Check every value against the wider range."""
        for slider in SLIDERS:
            value = getattr(self, slider.name)
            if not slider.wide[0] <= value <= slider.wide[1]:
                msg = f"{slider.name} must lie between {slider.wide[0]:g} and {slider.wide[1]:g}, not {value:g}"
                raise ValueError(msg)

    @property
    def shear(self) -> tuple[float, float]:
        """Components g1 and g2 of the reduced shear."""
        g1, g2 = g_from_q_theta(self.q, self.theta)
        return float(g1), float(g2)
