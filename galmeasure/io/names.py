"""Names by which columns, extensions and header keywords are known in other people's files."""

from collections.abc import Sequence

__all__ = [
    "COLUMN_NAMES",
    "EXTENSION_NAMES",
    "KEYWORDS",
    "PIXEL_NAMES",
    "SKY_NAMES",
    "spelling_of",
    "find_pair",
    "some_names",
]

COLUMN_NAMES = {
    "cutout": ("cutout", "image", "stamp", "vignet"),
    "error": ("error", "err", "sigma", "rms"),
    "variance": ("variance", "var"),
    "weight": ("weight", "ivar", "invvar", "wht"),
    "mask": ("mask",),
    "segmentation": ("segmentation", "segmap", "segm"),
    "psf": ("psf",),
    "id": ("id", "number", "source_id", "object_id", "objectid", "objid", "label"),
    "gain": ("gain",),
    "zero_point": ("zero_point", "zeropoint"),
    "pixel_scale": ("pixel_scale", "pixscale"),
    "ny": ("ny", "naxis2", "cutout_ny"),
    "nx": ("nx", "naxis1", "cutout_nx"),
}
"""Column names of a cutout table by what they hold, without regard to case; the first one found counts."""

PIXEL_NAMES = (
    ("x", "y", 0),
    ("x_image", "y_image", 1),
    ("xwin_image", "ywin_image", 1),
    ("xcentroid", "ycentroid", 0),
    ("x_centroid", "y_centroid", 0),
    ("x_fit", "y_fit", 0),
    ("pixel_centroid_x", "pixel_centroid_y", 1),
)
"""Columns of pixel positions, and the coordinate of the centre of the first pixel in each."""

SKY_NAMES = (
    ("ra", "dec"),
    ("alpha_j2000", "delta_j2000"),
    ("alphawin_j2000", "deltawin_j2000"),
    ("raj2000", "dej2000"),
    ("_raj2000", "_dej2000"),
    ("coord_ra", "coord_dec"),
    ("right_ascension", "declination"),
    ("world_centroid_alpha", "world_centroid_delta"),
    ("ra_icrs", "de_icrs"),
    ("_ra", "_de"),
    ("ra_deg", "dec_deg"),
    ("glon", "glat"),
)
"""Columns of sky positions, in their unit, or in degrees where they have none; ``glon`` and ``glat`` are galactic."""

EXTENSION_NAMES = {
    "cutout": ("SCI", "SCIENCE", "IMAGE", "CUTOUT", "STAMP"),
    "error": ("ERR", "ERROR", "SIGMA", "RMS"),
    "uncertainty": ("UNCERT",),
    "variance": ("VAR", "VARIANCE"),
    "weight": ("WHT", "WGT", "WEIGHT", "IVAR", "INVVAR"),
    "mask": ("MASK", "MSK", "DQ", "FLG"),
    "segmentation": ("SEG", "SEGM", "SEGMAP", "SEGMENTATION"),
    "psf": ("PSF", "PSFIMAGE"),
}
"""Names of image extensions by what they hold; a trailing number (``SCI_7``), or what comes before
a dot (``CHIP1.SCI``), says to which set they belong."""

KEYWORDS = {
    "pixel_scale": ("PIXSCALE", "PIXELSCL", "PIXSCAL1", "PIXELSCA", "PIXSCAL", "SECPIX", "SEXPIXS"),
    "gain": ("GAIN", "EGAIN", "SEXGAIN"),
    "zero_point": ("ZEROPNT", "MAGZERO", "MAGZPT", "ZEROPT", "PHOTZP", "MAGZP", "ZP", "SEXMGZPT"),
    "exposure_time": ("EXPTIME", "EXPOSURE", "XPOSURE", "TEXPTIME", "EFFEXPTM"),
    "oversampling": ("OVERSAMP", "DET_SAMP"),
    "psf_step": ("PSFSAMP", "PSF_SAMP"),
}
"""Header keywords by what they hold; the first one found counts."""


def spelling_of(names: Sequence[str], role: str) -> str | None:
    """Spelling in `names` of the first column that holds `role`, or None."""
    return _first(names, COLUMN_NAMES[role])


def find_pair(names: Sequence[str], pairs: Sequence[tuple]) -> tuple | None:
    """First of `pairs` (two column names, then anything) whose two columns are both in `names`, or None."""
    for first, second, *details in pairs:
        columns = _first(names, (first,)), _first(names, (second,))
        if None not in columns:
            return (*columns, *details)
    return None


def _first(names, spellings):
    lower = {name.lower(): name for name in reversed(list(names)) if name}
    return next((lower[name] for name in spellings if name in lower), None)


def some_names(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, the first of them if there are many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
