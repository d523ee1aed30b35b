"""Small files of every kind of catalogue, for tests of reading and of the command line."""

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

SIZE = 24


def gaussian(size, sigma, x=None, y=None):
    x, y = ((size - 1) / 2 if v is None else v for v in (x, y))
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def stamps(count=7, size=SIZE, seed=1):
    rng = np.random.default_rng(seed)
    flux = 100.0 * (1 + np.arange(count))
    return (flux[:, None, None] * gaussian(size, 2.5) + rng.normal(0, 1, (count, size, size))).astype("f4")


def psf_image(size=25):
    return gaussian(size, 1.3).astype("f4")


def cutout_table(path, columns=None, *, psf=True, header=None, primary=None, name="cutout", count=7, units=None):
    """Write a cutout table; gives the stamps."""
    data = stamps(count)
    table = Table({name: data, **(columns or {})})
    hdu = fits.table_to_hdu(table)
    hdu.header.update(header or {})
    for column, unit in (units or {}).items():
        hdu.columns[column].unit = unit
    hdus = [fits.PrimaryHDU(), hdu]
    hdus[0].header.update(primary or {})
    if psf:
        hdus.append(fits.ImageHDU(psf_image(), name="PSF"))
    fits.HDUList(hdus).writeto(path)
    return data


def tan_wcs(shape, scale=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.0, 2.0
    wcs.wcs.crpix = shape[1] / 2, shape[0] / 2
    wcs.wcs.cdelt = -scale / 3600, scale / 3600
    return wcs


POSITIONS = np.array([[30.3, 40.7], [100.0, 60.0], [2.0, 3.0], [150.49, 110.51], [80.2, 120.0]])


def positions_list(path):
    """Write a list of POSITIONS; gives its path."""
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(path)
    return path


def field(path, shape=(150, 180), noise=0.0, unit="electron", **planes):
    """Write an image with a source at each of POSITIONS, and extensions; gives the pixels."""
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, shape) * noise
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for x, y in POSITIONS:
        image += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    header = tan_wcs(shape).to_header()
    header["BUNIT"] = unit
    hdus = [fits.PrimaryHDU(image.astype("f4"), header)]
    hdus += [fits.ImageHDU(data, name=name) for name, data in planes.items()]
    fits.HDUList(hdus).writeto(path)
    return image.astype("f4")


def psfex(path, step=0.5, degree=1, size=25, shape=(150, 180)):
    """Write a PSFEx model whose width and flux do not vary, but whose pixels do, in x and y."""
    fwhm_sigma = 1.3 / step
    basis = [gaussian(size, fwhm_sigma)]
    if degree:
        basis += [0.1 * gaussian(size, fwhm_sigma * 1.2), 0.05 * gaussian(size, fwhm_sigma * 0.8)]
    column = fits.Column(
        "PSF_MASK",
        f"{size * size * len(basis)}E",
        dim=f"({size},{size},{len(basis)})",
        array=np.array([basis], dtype="f4"),
    )
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    hdu.header.update(
        {
            "POLNAXIS": 2,
            "POLGRP1": 1,
            "POLNAME1": "X_IMAGE",
            "POLZERO1": shape[1] / 2,
            "POLSCAL1": float(shape[1]),
            "POLGRP2": 1,
            "POLNAME2": "Y_IMAGE",
            "POLZERO2": shape[0] / 2,
            "POLSCAL2": float(shape[0]),
            "POLNGRP": 1,
            "POLDEG1": degree,
            "PSF_FWHM": 3.06,
            "PSF_SAMP": step,
            "PSFNAXIS": 3,
        }
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return np.array(basis)
