"""Configuration of a network of point estimates: the ranges of its labels, its body and the head of its errors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from galmeasure.networks.config import known_fields, with_lists, with_tuples

if TYPE_CHECKING:
    from galmeasure.priors import Prior

__all__ = ["PointConfig"]


@dataclass(frozen=True, kw_only=True)
class PointConfig:
    """Architecture of a network that estimates flux, n, r_eff, g1 and g2 of galaxies in the middle of their stamps.

    Parameters
    ----------
    n, r_eff : tuple of float
        Bounds of the training domain, those of r_eff in pixels; labels are scaled from them to (-1, 1).
    g_max : float
        Largest modulus of the reduced shear, the bound of the labels of g1 and g2.
    flux : tuple of float
        Bounds of the flux in units of the noise of a pixel.
    centre : float
        Offset of the centre from the middle of the stamp, pixels, from which galaxies are looked at again elsewhere.
    encoder : str
        Name of the body in ``galmeasure.networks.registry.BODIES``.
    encoder_options : dict
        Numbers that this body takes, by name.
    psf_channel : bool
        True for a network that sees the image of the PSF; the others know one PSF, that of their training.
    window : int
        Side of the central pixels of a stamp that the network sees.
    hidden : int
        Width of the hidden layer of the head of the errors.
    passes : int
        Number of passes with dropout whose estimates are averaged, and whose scatter adds to the errors (Gal and
        Ghahramani 2016, arXiv:1506.02142); 0 for one pass without. For bodies with an option ``dropout``.
    clean_psf : bool
        True for a network whose PSF images are cleaned by `galmeasure.networks.clean_psfs`.
    """

    architecture: ClassVar[str] = "PointPosterior"
    """Name of the architecture in the registry of networks."""

    n: tuple[float, float] = (0.5, 6.0)
    r_eff: tuple[float, float] = (0.1 / 0.23, 0.6 / 0.23)
    g_max: float = 0.67
    flux: tuple[float, float] = (75.0, 2000.0)
    centre: float = 0.5
    encoder: str = "xception"
    encoder_options: dict[str, Any] = field(default_factory=dict, hash=False)
    psf_channel: bool = False
    window: int = 64
    hidden: int = 64
    passes: int = 0
    clean_psf: bool = True

    def __post_init__(self) -> None:
        """Take the lists of a file as tuples, so that equal configurations compare equal."""
        object.__setattr__(self, "encoder_options", with_tuples(dict(self.encoder_options)))

    @classmethod
    def for_prior(cls, prior: "Prior", **options: Any) -> Self:
        """Configuration whose domain is that of a prior.

        Parameters
        ----------
        prior : galmeasure.priors.Prior
            Prior with lengths in pixels.
        **options
            All other fields of the configuration.

        Returns
        -------
        PointConfig
            The configuration.
        """
        return cls(
            n=(prior.n.lower, prior.n.upper), r_eff=(prior.r_eff.lower, prior.r_eff.upper), g_max=prior.shear.g_max,
            **options,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a card; the options of the body are left out where there are none."""
        values = with_lists(asdict(self))
        if not self.encoder_options:
            del values["encoder_options"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`.

        Parameters
        ----------
        values : mapping of str to object
            Fields of the configuration; the others have their defaults.

        Returns
        -------
        PointConfig
            The configuration.

        Raises
        ------
        ValueError
            If there is no field of a name.
        """
        return cls(**known_fields(cls, values))
