"""Configuration of a simulated data set: ranges of galaxies, PSF and noise; those of the study; files of options."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

__all__ = ["DATASETS", "PSF_FAMILIES", "DatasetConfig", "get_dataset_config", "read_dataset_config"]

PSF_FAMILIES = ("moffat", "gaussian", "kolmogorov")
"""Profiles of the PSF."""

RANGES = {
    "n": (0.3, 6.2),
    "r_eff": (1e-3, 1e3),
    "g": (0.0, 0.95),
    "flux": (1e-30, 1e30),
    "psf_fwhm": (1e-3, 1e3),
    "sigma": (1e-30, 1e30),
    "snr": (0.0, math.inf),
}
"""Fields that are ranges, and between what they must lie; the Sersic indices are those that GalSim can draw."""

LOGARITHMIC = ("r_eff", "flux", "psf_fwhm", "sigma")
"""Ranges that may be uniform in the logarithm."""


def _range(default, unit, text):
    return field(default=default, metadata={"unit": unit, "help": text})


def _option(default, text):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Configuration of a simulated data set; the defaults are those of the study's first set.

    A range is a pair of numbers, equal for a fixed value (one number does as well); values are uniform in it.

    Parameters
    ----------
    n : tuple of float, optional
        Sersic index, within 0.3 to 6.2.
    r_eff : tuple of float, optional
        Circularised half-light radius, arcsec.
    g : tuple of float, optional
        Modulus of the reduced shear; the angle is uniform.
    g1, g2 : float, optional
        A fixed reduced shear in place of ``g``.
    flux : tuple of float, optional
        Total flux, adu: electrons where the gain is 1.
    psf_fwhm : tuple of float, optional
        Full width at half maximum of the PSF without the pixel, arcsec.
    sigma : tuple of float, optional
        1-sigma Gaussian noise of a pixel in adu, without the source's own.
    snr : tuple of float, optional
        Range of ``sqrt(sum(noiseless**2)) / sigma``; other galaxies are left out.
    logarithmic : tuple of str, optional
        Ranges that are uniform in the logarithm instead: of r_eff, flux, psf_fwhm, sigma.
    centre : float, optional
        Half-width in pixels of the uniform scatter of the centres around that of the stamp, in x and in y.
    psf : str, optional
        Profile of the PSF: moffat, gaussian or kolmogorov.
    beta : float, optional
        Exponent of the Moffat profile.
    gain : float, optional
        Gain in electrons per adu.
    stamp_size : int, optional
        Side of the stamps, pixels.
    pixel_scale : float, optional
        Pixel scale in arcsec per pixel.
    psf_size : int, optional
        Side of the PSF images, pixels of the stamp.
    psf_oversampling : int, optional
        Samples per pixel of the PSF images, along one side.
    share_n : int, optional
        Number of successive candidates that share a Sersic index, which GalSim takes long to prepare. Each row has the
        same distribution as with 1, but rows near each other are not independent.

    Raises
    ------
    ValueError, TypeError
        If a field is out of its range or of another kind; the message begins with its name.

    Examples
    --------
    >>> from galmeasure.training import DatasetConfig
    >>> DatasetConfig(n=4.0, psf_fwhm=(0.6, 0.8)).n
    (4.0, 4.0)
    """

    n: tuple[float, float] = _range((0.5, 6.0), None, "Sersic index, 0.3 to 6.2.")
    r_eff: tuple[float, float] = _range((0.1, 0.6), "arcsec", "Circularised half-light radius, arcsec.")
    g: tuple[float, float] = _range((0.0, 0.67), None, "Modulus of the reduced shear; the angle is uniform.")
    g1: float | None = _option(None, "Fixed reduced shear, with --g2, in place of --g.")
    g2: float | None = _option(None, "Fixed reduced shear, with --g1, in place of --g.")
    flux: tuple[float, float] = _range((0.3e5, 4e5), None, "Total flux, adu (electrons where the gain is 1).")
    psf_fwhm: tuple[float, float] = _range((0.5, 0.5), "arcsec", "Width of the PSF without the pixel, arcsec.")
    sigma: tuple[float, float] = _range((200.0, 200.0), None, "1-sigma noise of a pixel without the source's, adu.")
    snr: tuple[float, float] = _range((10.0, 100.0), None, "Range of S/N over this noise; others are left out.")
    logarithmic: tuple[str, ...] = ()
    centre: float = _option(0.0, "Half-width of the scatter of the centres, pixels.")
    psf: str = _option("moffat", "Profile of the PSF.")
    beta: float = _option(2.0, "Exponent of the Moffat profile.")
    gain: float = _option(1.0, "Gain, electrons per adu.")
    stamp_size: int = _option(64, "Side of the stamps, pixels.")
    pixel_scale: float = _option(0.23, "Pixel scale, arcsec per pixel.")
    psf_size: int = _option(63, "Side of the PSF images, pixels of the stamp.")
    psf_oversampling: int = _option(1, "Samples per pixel of the PSF images, along one side.")
    share_n: int = _option(1, "Successive candidates that share a Sersic index: quick, but not independent.")

    def __post_init__(self):
        """Check every field; ranges become pairs of floats."""
        for name, limits in RANGES.items():
            object.__setattr__(self, name, _checked_range(name, getattr(self, name), limits))
        self._check_shear()
        for name, lower, upper in (
            ("centre", 0.0, None),
            ("beta", 1.1, 100.0),
            ("gain", 1e-30, 1e30),
            ("pixel_scale", 1e-6, 1e6),
        ):
            object.__setattr__(self, name, _checked_number(name, getattr(self, name), lower, upper))
        for name, lower, upper in (
            ("stamp_size", 8, 1024),
            ("psf_size", 3, 1024),
            ("psf_oversampling", 1, 50),
            ("share_n", 1, 1000),
        ):
            _check_whole(name, getattr(self, name), lower, upper)
        if self.centre > self.stamp_size / 2:
            msg = f"centre must be at most half of stamp_size, {self.stamp_size / 2:g} pixels, not {self.centre:g}"
            raise ValueError(msg)
        if self.psf not in PSF_FAMILIES:
            msg = f"psf must be one of {', '.join(PSF_FAMILIES)}, not {self.psf!r}"
            raise ValueError(msg)
        self._check_logarithmic()

    def _check_shear(self):
        if (self.g1 is None) != (self.g2 is None):
            msg = "g1 and g2 must be given together"
            raise ValueError(msg)
        if self.g1 is None:
            return
        for name in ("g1", "g2"):
            object.__setattr__(self, name, _checked_number(name, getattr(self, name), -1.0, 1.0))
        if math.hypot(self.g1, self.g2) > RANGES["g"][1]:
            msg = f"g1 and g2 must have a modulus of at most {RANGES['g'][1]}, not {math.hypot(self.g1, self.g2):.3g}"
            raise ValueError(msg)

    def _check_logarithmic(self):
        names = (self.logarithmic,) if isinstance(self.logarithmic, str) else self.logarithmic
        if not isinstance(names, tuple | list) or not set(names) <= set(LOGARITHMIC):
            msg = f"logarithmic must be names out of {', '.join(LOGARITHMIC)}, not {names!r}"
            raise ValueError(msg)
        object.__setattr__(self, "logarithmic", tuple(name for name in LOGARITHMIC if name in names))

    @property
    def shared_psf(self) -> bool:
        """True if all rows have the same PSF."""
        return self.psf_fwhm[0] == self.psf_fwhm[1]

    def to_dict(self) -> dict[str, object]:
        """Return the fields as numbers, texts and lists, as in a file of options, without those that are None."""
        values = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values if v is not None}


def _checked_number(name, value, lower, upper):
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{name} must be a number, not {value!r}"
        raise TypeError(msg)
    if not (lower <= value and math.isfinite(value)) or (upper is not None and value > upper):
        limit = f"at least {lower:g}" if upper is None else f"{lower:g} to {upper:g}"
        msg = f"{name} must be {limit}, not {value:g}"
        raise ValueError(msg)
    return float(value)


def _check_whole(name, value, lower, upper):
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if not lower <= value <= upper:
        msg = f"{name} must be {lower} to {upper}, not {value}"
        raise ValueError(msg)


def _checked_range(name, value, limits):
    """Pair of floats of a pair or of one number."""
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in pair):
        msg = f"{name} must be a number or a pair of numbers, not {value!r}"
        raise TypeError(msg)
    if not limits[0] <= pair[0] <= pair[1] <= limits[1]:
        msg = f"{name} must be a lower and an upper bound within {limits[0]:g} to {limits[1]:g}, not {value!r}"
        raise ValueError(msg)
    return float(pair[0]), float(pair[1])


_REFERENCE = {"flux": 1e5, "n": 3.0, "r_eff": 0.3, "g1": -0.069, "g2": 0.15, "psf_fwhm": 0.5}

DATASETS = {
    "1": DatasetConfig(psf_fwhm=0.5, sigma=200.0),
    "2": DatasetConfig(psf_fwhm=0.5, sigma=(200.0, 400.0)),
    "3": DatasetConfig(psf_fwhm=(0.5, 1.0), sigma=(200.0, 400.0)),
    "reference-60": DatasetConfig(**_REFERENCE, sigma=200.0),
    "reference-30": DatasetConfig(**_REFERENCE, sigma=400.0),
}
"""Data sets of the study: its three sets, and noise draws of its reference galaxy at S/N 60 and 30."""


def get_dataset_config(name: str) -> DatasetConfig:
    """Return the configuration of one of the study's data sets.

    Parameters
    ----------
    name : str
        Name of an entry of :data:`~galmeasure.training.DATASETS`.

    Returns
    -------
    DatasetConfig
        Configuration of the data set.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from galmeasure.training import get_dataset_config
    >>> get_dataset_config("3").psf_fwhm
    (0.5, 1.0)
    """
    if str(name) not in DATASETS:
        msg = f"dataset must be one of {', '.join(DATASETS)}, not {name!r}"
        raise ValueError(msg)
    return DATASETS[str(name)]


def make_config(values: Mapping[str, object], base: DatasetConfig | None = None) -> DatasetConfig:
    """Change fields of a configuration.

    Parameters
    ----------
    values : dict
        Fields of `DatasetConfig`. A range ``g`` replaces the fixed shear of ``base``.
    base : DatasetConfig, optional
        Configuration with the other fields.

    Returns
    -------
    DatasetConfig
        Configuration of the data set.

    Raises
    ------
    ValueError
        If a name is not one of a field.
    """
    options = {f.name for f in dataclasses.fields(DatasetConfig)}
    for name in values:
        if name not in options:
            msg = f"{name} is not an option of a data set; there are {', '.join(sorted(options))}"
            raise ValueError(msg)
    if "g" in values:
        values = {"g1": None, "g2": None, **values}
    return dataclasses.replace(base or DatasetConfig(), **values)


def read_dataset_config(path: str | PathLike, base: DatasetConfig | None = None) -> DatasetConfig:
    r"""Read a configuration from a TOML or YAML file.

    Parameters
    ----------
    path : path-like
        File ending in .toml, .yaml or .yml, with fields of `DatasetConfig`; ``dataset`` names one of
        :data:`~galmeasure.training.DATASETS` that has the others.
    base : DatasetConfig, optional
        Configuration with the other fields instead.

    Returns
    -------
    DatasetConfig
        Configuration of the data set.

    Raises
    ------
    ValueError
        If the file cannot be read; the message names it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from galmeasure.training import read_dataset_config
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "survey.toml")
    ...     _ = path.write_text('dataset = "2"\nsigma = [100, 300]\n')
    ...     read_dataset_config(path).sigma
    (100.0, 300.0)
    """
    path = Path(path)
    values = dict(_read_values(path))
    try:
        named = get_dataset_config(values.pop("dataset", "1"))
        return make_config(values, named if base is None else base)
    except (ValueError, TypeError) as err:
        msg = f"{path}: {err}"
        raise type(err)(msg) from err


def _read_values(path):
    """Keys and values of a file."""
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        msg = f"config must be a file ending in .toml, .yaml or .yml, not {path.name!r}"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise ValueError(msg)
    text = path.read_text(encoding="utf-8")
    values = _toml(text, path) if path.suffix.lower() == ".toml" else _yaml(text, path)
    if not isinstance(values, dict):
        msg = f"{path}: must hold names and values"
        raise ValueError(msg)
    return values


def _toml(text, path):
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        msg = f"{path}: not a TOML file ({err})"
        raise ValueError(msg) from err


def _yaml(text, path):
    try:
        import yaml
    except ImportError as err:
        msg = f"{path}: YAML files need PyYAML, which is not installed; write the options as TOML instead"
        raise ValueError(msg) from err
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as err:
        msg = f"{path}: not a YAML file ({' '.join(str(err).split())})"
        raise ValueError(msg) from err
