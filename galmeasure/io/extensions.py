"""What the extensions of a FITS file hold, by their names and versions, and which of them belong together."""

import os
import re
from collections.abc import Sequence

import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import image_data, is_chosen, is_image, open_fits, reading, split_extension
from galmeasure.io.names import EXTENSION_NAMES, some_names

__all__ = ["choose_image", "label", "load_plane", "only_plane", "planes_beside", "role_of"]

UNNAMED = ("", "PRIMARY", "COMPRESSED_IMAGE")
"""Names of extensions that say nothing; the last one is that of tile-compressed images without a name."""

_UNCERTAINTY = {
    "StdDevUncertainty": "error",
    "VarianceUncertainty": "variance",
    "InverseVariance": "weight",
}


def role_of(hdu: fits.ImageHDU) -> tuple[str | None, int | str | None]:
    """Role of an extension, None if unknown, and the number or name of its set, None if there is none.

    The number is at the end of the name (``SCI_7``), or ``EXTVER``; a set has a name where extensions are called
    ``CHIP1.SCI`` and ``CHIP1.RMS``. An image without a name is a cutout.
    """
    name = hdu.name.upper()
    if name in UNNAMED:
        return "cutout", hdu.ver if name else None
    group, _, kind = name.rpartition(".")
    if group:
        return next((role for role, names in EXTENSION_NAMES.items() if kind in names), None), group
    match = re.fullmatch(r"([A-Z]+?)[_-]?(\d+)?", name)
    base, number = (match[1], match[2]) if match else (name, None)
    role = next((role for role, names in EXTENSION_NAMES.items() if base in names), None)
    if role == "uncertainty":
        role = _UNCERTAINTY.get(hdu.header.get("UTYPE", "StdDevUncertainty"))
    return role, int(number) if number else hdu.ver


def label(hdu: fits.ImageHDU, number: int) -> str:
    """Name by which an extension is chosen: ``SCI,1``, or its number where it has no name."""
    return str(number) if hdu.name.upper() in UNNAMED else f"{hdu.name.upper()},{hdu.ver}"


def choose_image(
    hdus: fits.HDUList,
    path: str | os.PathLike,
    what: str,
    roles: Sequence[str],
    extension: str | None = None,
    version: int | str | None = None,
) -> int:
    """Number of the image of a file that is meant; raise if there is none, or more than one.

    The only image of a file is meant whatever its name.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open FITS file.
    path : path-like
        Name of the file, for messages.
    what : str
        What the image is read as, for messages.
    roles : tuple of str
        Keys of ``EXTENSION_NAMES``: images with such names are preferred, those of the first key that has any.
    extension : str, optional
        Extension that was asked for, see `is_chosen`.
    version : int, optional
        Number of the set that is preferred where several images have such names.

    Returns
    -------
    int
        Number of the HDU.
    """
    images = [(number, hdu) for number, hdu in enumerate(hdus) if is_image(hdu)]
    if extension is not None:
        images = [(number, hdu) for number, hdu in images if is_chosen(extension, number, hdu)]
    elif len(images) > 1:
        images = _preferred(images, roles)
        if not images and any(is_image(hdu) for hdu in hdus):
            labels = _labels((number, hdu) for number, hdu in enumerate(hdus) if is_image(hdu))
            msg = f"{path}: {what}: not one of the images {labels}; choose it as {path}[NAME,VERSION]"
            raise CatalogError(msg)
    named = [(number, hdu) for number, hdu in images if hdu.name.upper() not in UNNAMED]
    matching = [(number, hdu) for number, hdu in named if version is not None and role_of(hdu)[1] == version]
    images = matching if len(images) > 1 and len(matching) == 1 else images
    if not images:
        msg = f"{path}: {what}: no image" + (f" in extension {extension}" if extension else "")
        raise CatalogError(msg)
    if len(images) > 1:
        msg = f"{path}: {what}: there are {len(images)} images, {_labels(images)}; choose one as {path}[NAME,VERSION]"
        raise CatalogError(msg)
    return images[0][0]


def _preferred(images, roles):
    """Images with names of the first role that has any, else those without a name, else those of unknown names."""
    named = [(number, hdu) for number, hdu in images if hdu.name.upper() not in UNNAMED]
    kinds = [[(number, hdu) for number, hdu in named if role_of(hdu)[0] == role] for role in roles]
    kinds.append([(number, hdu) for number, hdu in images if hdu.name.upper() in UNNAMED])
    kinds.append([(number, hdu) for number, hdu in named if role_of(hdu)[0] is None])
    return next((kind for kind in kinds if kind), [])


def _labels(images):
    return some_names(label(hdu, number) for number, hdu in images)


def load_plane(
    path: str | os.PathLike, what: str, roles: Sequence[str], version: int | str | None = None
) -> tuple[npt.ArrayLike, fits.ImageHDU]:
    """Physical pixels of one 2-D image of a file, and its HDU; see `choose_image` for the parameters."""
    path, extension = split_extension(path)
    with reading(path), open_fits(path) as hdus:
        hdu = hdus[choose_image(hdus, path, what, roles, extension, version)]
        return image_data(hdu, path, what, axes=(2,)), hdu


def planes_beside(hdus: fits.HDUList, number: int) -> dict[str, list[tuple[int, fits.ImageHDU]]]:
    """Extensions that belong to an image of the same file, by what they hold.

    An extension belongs to the image if it is of the same set, or the only one of its kind in a file with one image.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open FITS file.
    number : int
        Number of the image's HDU in the file.

    Returns
    -------
    dict of str to list of (int, astropy.io.fits.ImageHDU)
        Numbers and HDUs of each kind but images, see `only_plane`.
    """
    images = [(i, hdu, *role_of(hdu)) for i, hdu in enumerate(hdus) if is_image(hdu)]
    version = role_of(hdus[number])[1]
    alone = sum(role == "cutout" for *_, role, _ in images) < 2
    planes = {}
    for role in {role for *_, role, _ in images} - {None, "cutout"}:
        of_role = [(i, hdu, version_) for i, hdu, role_, version_ in images if role_ == role and i != number]
        of_set = [(i, hdu) for i, hdu, version_ in of_role if version is None or version_ == version]
        if of_set or (len(of_role) == 1 and (alone or role == "psf")):
            planes[role] = of_set or [of_role[0][:2]]
    return planes


def only_plane(planes: list[tuple[int, fits.ImageHDU]], path: str | os.PathLike, what: str) -> fits.ImageHDU:
    """The HDU of a list of numbers and HDUs of one kind; raise if several have one name."""
    labels = [label(hdu, number) for number, hdu in planes]
    if labels.count(labels[0]) > 1:
        msg = f"{path}: {what}: there are {labels.count(labels[0])} extensions {labels[0]}; choose one by its number"
        raise CatalogError(msg)
    return planes[0][1]
