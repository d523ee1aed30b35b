"""Conventions in which other codes give a Sersic profile: names, units, angles, radii and first pixels."""

from dataclasses import dataclass, field

__all__ = ["ANGLES", "PRESETS", "QUANTITIES", "CatalogPreset", "find_preset"]

QUANTITIES = (
    "id", "x", "y", "ra", "dec", "flux", "mag", "intensity", "n", "radius", "q", "ellipticity", "angle", "radius_x",
    "radius_y", "rho", "e1", "e2",
)  # fmt: skip
"""What a column of a catalogue may hold; with ``_err`` its error, with ``_ivar`` the inverse variance."""

ANGLES = {"x": 0.0, "y": 90.0, "north": None}
"""Directions from which angles count, in degrees from +x; north is where the sky says."""

_IDS = ("id", "number", "source_id", "label")
_CHOICES = {
    "angle_from": tuple(ANGLES),
    "angle_unit": ("deg", "rad"),
    "radius_unit": ("pix", "arcsec"),
    "position_unit": ("pix", "arcsec"),
}


@dataclass(frozen=True, kw_only=True)
class CatalogPreset:
    """Conventions in which a code writes its results.

    Parameters
    ----------
    columns : dict of str to tuple of str
        Names that a column may have, the first one found counts, without regard to case; by what it holds: ``id``
        (by default id, number, source_id or label), ``x``, ``y``, ``ra``, ``dec``, ``flux`` (of the whole model) or
        ``mag`` or ``intensity`` (surface brightness at the half-light radius, per square of the unit of the radius),
        ``n``, ``radius``, ``q`` or ``ellipticity`` (1 - q), ``angle``; each with ``_err``, or with ``_ivar`` for the
        inverse variance. The shape may also be an ellipse in the form of a covariance, ``radius_x``, ``radius_y`` and
        ``rho``, whose axes are the semi-major and the semi-minor half-light radius; or ``e1`` and ``e2``, the
        components of (a - b) / (a + b). The name ``center[0]`` means the first element of a column of vectors, and
        ``{band}`` in a name stands for a band. The first name is the one that `convert_results` writes.
    origin : float, optional
        Coordinate of the centre of the first pixel: 0, 1, or 0.5 where the corner of the image is 0.
    circularised : bool, optional
        Whether ``radius`` is circularised; otherwise it is that of the major axis.
    angle_from : {"x", "y", "north"}, optional
        Axis from which ``angle`` counts, counter-clockwise; from north the angle is on the sky, through east.
    angle_unit : {"deg", "rad"}, optional
        Unit of ``angle`` where the column has none.
    sentinels : tuple of float, optional
        Numbers that stand for no measurement.
    description : str, optional
        What is assumed, as a sentence to read.
    radius_unit : {"pix", "arcsec"}, optional
        Unit of the radii where the column has none.
    position_unit : {"pix", "arcsec"}, optional
        Unit of ``x`` and ``y``; positions in arcsec count from the centre of the first pixel.
    flux_unit : str, optional
        Unit of ``flux`` where the column has none, as a text for `astropy.units.Unit`.

    Raises
    ------
    ValueError
        If a field is not one of the choices.

    Examples
    --------
    >>> from galmeasure.evaluation import CatalogPreset
    >>> preset = CatalogPreset(columns={"n": ("sersic",), "radius": ("hlr",)}, circularised=True)
    >>> preset.angle_from
    'x'
    """

    columns: dict = field(default_factory=dict)
    origin: float = 0.0
    circularised: bool = False
    angle_from: str = "x"
    angle_unit: str = "deg"
    sentinels: tuple = ()
    description: str = ""
    radius_unit: str = "pix"
    position_unit: str = "pix"
    flux_unit: str = ""

    def __post_init__(self):
        """Check the fields."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                msg = f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                raise ValueError(msg)
        unknown = {name.removesuffix("_err").removesuffix("_ivar") for name in self.columns} - set(QUANTITIES)
        if unknown:
            msg = (
                f"columns must be named {', '.join(QUANTITIES)}, each also with _err, not {', '.join(sorted(unknown))}"
            )
            raise ValueError(msg)
        names = {
            key: (spellings,) if isinstance(spellings, str) else tuple(spellings)
            for key, spellings in self.columns.items()
        }
        names.setdefault("id", _IDS)
        object.__setattr__(self, "columns", names)


def _columns(error, **names):
    """Names of columns and of their errors; ``error`` says how these are named after them."""
    columns = dict(names)
    for key, candidates in names.items():
        stems = [(name, name.removesuffix("_galfit").removesuffix("_GALFIT")) for name in candidates]
        columns[f"{key}_err"] = tuple(form.format(name, stem=stem) for name, stem in stems for form in error)
    return columns


_GALFIT = {"origin": 1.0, "angle_from": "y", "sentinels": (-99.0, -999.0)}
_GALFIT_TEXT = (
    "magnitude of the whole model, semi-major R_e in pixels, b/a, PA in degrees from +y, the first pixel is 1. Cells "
    "may be texts as in its headers, 3.21 +/- 0.05, where asterisks mark what did not converge"
)

PRESETS = {
    # Peng et al. 2010 and the GALFIT user's manual, section 7 (parameters 1 to 10 of "sersic")
    "galfit": CatalogPreset(
        columns=_columns(
            ("{}_err", "e_{}", "{stem}err_galfit"),
            x=("xc", "x", "1_xc", "x_galfit"),
            y=("yc", "y", "1_yc", "y_galfit"),
            mag=("mag", "1_mag", "mag_galfit"),
            n=("n", "1_n", "n_galfit"),
            radius=("re", "r_e", "1_re", "re_galfit"),
            q=("ar", "q", "b/a", "1_ar", "q_galfit"),
            angle=("pa", "1_pa", "pa_galfit"),
        ),
        description=f"GALFIT 3 and GALAPAGOS: {_GALFIT_TEXT}",
        **_GALFIT,
    ),
    # imfit_howto.pdf, section "Standard image functions"; the positions are in the IRAF system, first pixel (1, 1)
    "imfit": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_error"),
            x=("X0",),
            y=("Y0",),
            intensity=("I_e",),
            n=("n",),
            radius=("r_e",),
            ellipticity=("ell",),
            angle=("PA",),
        ),
        origin=1.0,
        angle_from="y",
        description="imfit's Sersic function: I_e per pixel at the semi-major r_e in pixels, ellipticity 1 - b/a, PA "
        "in degrees from +y, the first pixel is 1",
    ),
    # pysersic/rendering.py
    "pysersic": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_std", "{}_sd"),
            x=("xc",),
            y=("yc",),
            flux=("flux",),
            n=("n",),
            radius=("r_eff",),
            ellipticity=("ellip",),
            angle=("theta",),
        ),
        angle_from="y",
        angle_unit="rad",
        description="pysersic 0.1.5: flux of the whole model, semi-major r_eff in pixels, ellipticity 1 - b/a, theta "
        "in radians from +y (in earlier releases from +x: use angle_from='x'), the first pixel is 0",
    ),
    # statmorph.readthedocs.io, "Description of the measurements"; the model is astropy's Sersic2D
    "statmorph": CatalogPreset(
        columns={"id": ("label", *_IDS)}
        | _columns(
            ("{}_err",),
            x=("sersic_xc",),
            y=("sersic_yc",),
            intensity=("sersic_amplitude",),
            n=("sersic_n",),
            radius=("sersic_rhalf",),
            ellipticity=("sersic_ellip",),
            angle=("sersic_theta",),
        ),
        angle_unit="rad",
        sentinels=(-99.0,),
        description="statmorph's Sersic fit: surface brightness at the semi-major half-light radius in pixels, "
        "ellipticity 1 - b/a, theta in radians from +x, the first pixel is 0, -99 for none",
    ),
    # petrofit.readthedocs.io, "Galaxy Modeling"; docs.astropy.org, Sersic2D
    "petrofit": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_std"),
            x=("x_0",),
            y=("y_0",),
            intensity=("amplitude",),
            n=("n",),
            radius=("r_eff",),
            ellipticity=("ellip",),
            angle=("theta",),
        ),
        angle_unit="rad",
        description="petrofit, and any Sersic2D of astropy: amplitude, the surface brightness per pixel at the "
        "semi-major r_eff in pixels, ellipticity 1 - b/a, theta in radians from +x, the first pixel is 0",
    ),
    # github.com/Autostronomy/AstroPhot, models/mixins/sersic.py, models/mixins/transform.py, image/func/wcs.py
    "astrophot": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}_uncertainty"),
            intensity=("Ie",),
            n=("n",),
            radius=("Re",),
            q=("q",),
            angle=("PA",),
        )
        | {
            "x": ("center[0]",),
            "y": ("center[1]",),
            "x_err": ("center_err[0]", "center_uncertainty[0]"),
            "y_err": ("center_err[1]", "center_uncertainty[1]"),
        },
        angle_from="y",
        angle_unit="rad",
        radius_unit="arcsec",
        position_unit="arcsec",
        description="AstroPhot 0.17 and later, images without a sky frame: center in arcsec, where the centre of the "
        "first pixel is 0, Ie per square arcsec (in earlier releases its logarithm) at the semi-major Re in arcsec, "
        "q = b/a, PA in radians from +y",
    ),
    # libprofit.readthedocs.io, "Profiles" and "Coordinates": a profile is evaluated at i + 0.5 for pixel i
    "profit": CatalogPreset(
        columns=_columns(
            ("{}_err", "{}.err"),
            x=("xcen", "sersic.xcen", "sersic.xcen1"),
            y=("ycen", "sersic.ycen", "sersic.ycen1"),
            mag=("mag", "sersic.mag", "sersic.mag1"),
            n=("nser", "sersic.nser", "sersic.nser1"),
            radius=("re", "sersic.re", "sersic.re1"),
            q=("axrat", "sersic.axrat", "sersic.axrat1"),
            angle=("ang", "sersic.ang", "sersic.ang1"),
        ),
        origin=0.5,
        angle_from="y",
        description="ProFit and libprofit: magnitude of the whole model, semi-major re in pixels, axrat = b/a, ang in "
        "degrees from +y, the centre of the first pixel is 0.5",
    ),
    "sourcextractor++": CatalogPreset(
        columns={"id": ("source_id", *_IDS)}
        | _columns(
            ("{}_err",),
            x=("x", "model_x"),
            y=("y", "model_y"),
            flux=("flux", "model_flux"),
            mag=("mag", "model_mag"),
            n=("sersic_index", "sersic", "n"),
            radius=("effective_radius", "radius", "rad"),
            q=("aspect_ratio", "ratio"),
            angle=("angle",),
        ),
        origin=1.0,
        angle_unit="rad",
        description="SourceXtractor++'s Sersic model: flux of the whole model, semi-major effective radius in pixels, "
        "aspect ratio b/a, angle in radians from +x, the first pixel is 1. Its users name the columns: these are the "
        "names of the parameters, and those of the Euclid Morphology Challenge",
    ),
    # Barden et al. 2012; github.com/MegaMorph/galapagos, "README_output_columns"; galapagos-c: SERSIC_GALFIT, AR_GALFIT
    "galapagos": CatalogPreset(
        columns={"id": ("NUMBER", *_IDS)}
        | _columns(
            ("{stem}ERR_GALFIT",),
            x=("X_GALFIT",),
            y=("Y_GALFIT",),
            mag=("MAG_GALFIT",),
            n=("N_GALFIT", "SERSIC_GALFIT"),
            radius=("RE_GALFIT",),
            q=("Q_GALFIT", "AR_GALFIT"),
            angle=("PA_GALFIT",),
        ),
        description=f"GALAPAGOS: {_GALFIT_TEXT}",
        **_GALFIT,
    ),
    # sdm-schemas.lsst.io (drp_base.yaml), table Object
    "lsst": CatalogPreset(
        columns={"id": ("objectId", *_IDS)}
        | _columns(
            ("{}Err",),
            ra=("sersic_ra",),
            dec=("sersic_dec",),
            n=("sersic_index",),
            radius_x=("sersic_reff_x",),
            radius_y=("sersic_reff_y",),
            rho=("sersic_rho",),
        )
        | {"flux": ("{band}_sersicFlux",), "flux_err": ("{band}_sersicFluxErr",)},
        flux_unit="nJy",
        description="Rubin's Sersic fit (MultiProFit): flux of the whole model in nJy, the ellipse of half of the "
        "light as a covariance, its roots reff_x and reff_y in pixels and the correlation rho along the axes of the "
        "coadd; the centre is on the sky, and no first pixel is needed",
    ),
    # legacysurvey.org/dr10/catalogs; github.com/dstndstn/tractor, tractor/ellipses.py (EllipseE)
    "legacysurvey": CatalogPreset(
        columns={
            "id": ("OBJID", *_IDS),
            "x": ("BX",),
            "y": ("BY",),
            "ra": ("RA",),
            "dec": ("DEC",),
            "flux": ("FLUX_{band}",),
            "flux_ivar": ("FLUX_IVAR_{band}",),
            "n": ("SERSIC",),
            "n_ivar": ("SERSIC_IVAR",),
            "radius": ("SHAPE_R",),
            "radius_ivar": ("SHAPE_R_IVAR",),
            "e1": ("SHAPE_E1",),
            "e2": ("SHAPE_E2",),
            "e1_ivar": ("SHAPE_E1_IVAR",),
            "e2_ivar": ("SHAPE_E2_IVAR",),
        },
        angle_from="north",
        radius_unit="arcsec",
        flux_unit="nmgy",
        description="Tractor catalogues of the Legacy Surveys: flux of the whole model in nanomaggies, semi-major "
        "SHAPE_R in arcsec, SHAPE_E1 and SHAPE_E2, the components of (a - b) / (a + b) with angles from north through "
        "east, the first pixel is 0",
    ),
}  # fmt: skip
"""Conventions of other codes, see :doc:`/conventions`; ``description`` says what is assumed."""


def find_preset(preset: str | CatalogPreset | None, name: str = "preset") -> CatalogPreset | None:
    """Preset of a name, or the preset itself.

    Parameters
    ----------
    preset : str, CatalogPreset or None
        One of `PRESETS` by name, ``"galmeasure"``, or a preset.
    name : str, optional
        Name of the argument, for the message of the error.

    Returns
    -------
    CatalogPreset or None
        The preset; None for galmeasure's own tables.

    Raises
    ------
    ValueError
        If there is no such preset.
    """
    if preset is None or isinstance(preset, CatalogPreset):
        return preset
    if not isinstance(preset, str) or preset.lower() not in (*PRESETS, "galmeasure"):
        msg = f"{name} must be one of {', '.join(PRESETS)}, galmeasure, or a CatalogPreset, not {preset!r}"
        raise ValueError(msg)
    return PRESETS.get(preset.lower())
