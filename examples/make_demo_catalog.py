"""Make ``demo_catalog.fits``: 200 simulated cutouts with their PSF and noise, as a FITS table.

Usage: ``python make_demo_catalog.py [demo_catalog.fits]``. Needs GalSim. The result is the same every time.

Rows are mixed galaxies; some have neighbours, with or without a mask, and some cannot be measured well: stars, empty
stamps, saturated cores and galaxies cut by the edge (column ``true_kind``). The noise is that of a sky of
``gain * error**2`` electrons a pixel plus the galaxy's own light.
"""

import sys
from pathlib import Path

import galsim
import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

SEED = 20261
SIZE = 64  # pixels
PIXEL_SCALE = 0.2  # arcsec
GAIN = 2.0  # electrons per adu
ZERO_POINT = 27.0
SATURATION = 20000  # adu
PSF = galsim.Moffat(beta=3.5, fwhm=0.7)

KINDS = {"galaxy": 150, "neighbour_masked": 18, "neighbour": 8, "star": 6, "empty": 6, "saturated": 6, "edge": 6}
TRUTH = ("x", "y", "flux", "n", "r_eff", "g1", "g2")


def random_galaxy(rng, kind):
    """Draw the true parameters of a row; the flux is 1 and is scaled later."""
    shear = 0.6 * np.sqrt(rng.uniform())
    angle = rng.uniform(0, np.pi)
    centre = (SIZE - 1) / 2
    x, y = centre + rng.uniform(-1.5, 1.5, 2)
    if kind == "edge":
        x = rng.choice([2.0, SIZE - 3.0]) + rng.uniform(-1, 1)
    return {
        "x": x,
        "y": y,
        "flux": 1.0,
        "n": rng.uniform(0.5, 6.0) if rng.uniform() < 0.4 else rng.uniform(0.7, 2.0),
        "r_eff": np.exp(rng.uniform(np.log(0.15), np.log(1.2))),
        "g1": shear * np.cos(2 * angle),
        "g2": shear * np.sin(2 * angle),
    }


def draw(truth):
    """Noiseless stamp of one object, in adu; ``n`` of NaN is a star."""
    if np.isfinite(truth["n"]):
        light = galsim.Sersic(truth["n"], half_light_radius=truth["r_eff"]).shear(g1=truth["g1"], g2=truth["g2"])
        light = galsim.Convolve(light, PSF)
    else:
        light = PSF
    offset = truth["x"] - (SIZE - 1) / 2, truth["y"] - (SIZE - 1) / 2
    image = light.withFlux(truth["flux"]).drawImage(nx=SIZE, ny=SIZE, scale=PIXEL_SCALE, offset=offset, dtype=float)
    return image.array


def random_neighbour(rng, truth):
    """A smaller galaxy 9 to 16 pixels away from the main one."""
    neighbour = random_galaxy(rng, "galaxy")
    distance, angle = rng.uniform(9, 16), rng.uniform(0, 2 * np.pi)
    neighbour.update(
        x=truth["x"] + distance * np.cos(angle),
        y=truth["y"] + distance * np.sin(angle),
        n=rng.uniform(0.7, 2.0),
        r_eff=rng.uniform(0.15, 0.4),
    )
    return neighbour


def make_row(rng, kind):
    """One stamp: pixels in adu (background-subtracted), background error, mask and truth."""
    error = rng.uniform(15, 30)
    truth = random_galaxy(rng, kind)
    if kind == "star":
        truth.update(n=np.nan, r_eff=0.0, g1=np.nan, g2=np.nan)
    unit_image = draw(truth)
    snr = np.exp(rng.uniform(np.log(10), np.log(200)))
    truth["flux"] = snr * error / np.sqrt(np.sum(unit_image**2))
    if kind == "saturated":
        truth["flux"] = rng.uniform(2, 4) * SATURATION / unit_image.max()
    if kind == "empty":
        truth.update(dict.fromkeys(TRUTH, np.nan), flux=0.0)
    model = truth["flux"] * unit_image
    variance = error**2 + model / GAIN
    truth["snr"] = np.sqrt(np.sum(model**2 / variance))

    mask = np.zeros(model.shape, bool)
    total = model
    if kind.startswith("neighbour"):
        neighbour = random_neighbour(rng, truth)
        light = draw(neighbour)
        light *= truth["flux"] * unit_image.max() * rng.uniform(0.3, 1.0) / light.max()
        total = model + light
        if kind == "neighbour_masked":
            mask = (light > 0.1 * error) & (light > 0.3 * model)
    # a sky this bright has Poisson noise that is Gaussian to a very good approximation
    pixels = total + np.sqrt(error**2 + total / GAIN) * rng.normal(size=total.shape)
    pixels = np.rint(np.minimum(pixels, SATURATION)).astype(np.int16)
    return {"cutout": pixels, "error": error, "mask": mask, **{f"true_{name}": value for name, value in truth.items()}}


def make_table(seed=SEED):
    """Table of all cutouts, in random order."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(list(KINDS), list(KINDS.values())))
    rows = [make_row(rng, kind) for kind in kinds]
    table = Table({"id": np.arange(1, len(rows) + 1, dtype=np.int32)})
    for name in rows[0]:
        table[name] = np.array([row[name] for row in rows])
    for name in ("error", *(f"true_{name}" for name in (*TRUTH, "snr"))):
        table[name] = table[name].astype(np.float32)
    table["true_kind"] = kinds
    for name, unit in {"cutout": u.adu, "error": u.adu, "true_flux": u.adu, "true_r_eff": u.arcsec}.items():
        table[name].unit = unit
    table.meta = {"EXTNAME": "CUTOUTS", "PIXSCALE": PIXEL_SCALE, "GAIN": GAIN, "MAGZERO": ZERO_POINT}
    return table


def main(path):
    """Write the table and the PSF, with its pixel, to one FITS file."""
    comments = {"PIXSCALE": "arcsec per pixel", "GAIN": "electrons per adu", "MAGZERO": "mag of 1 adu"}
    hdu = fits.table_to_hdu(make_table())
    for key, comment in comments.items():
        hdu.header.comments[key] = comment
    psf = PSF.drawImage(nx=SIZE - 1, ny=SIZE - 1, scale=PIXEL_SCALE, dtype=np.float32).array
    fits.HDUList([fits.PrimaryHDU(), hdu, fits.ImageHDU(psf, name="PSF")]).writeto(path, overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("demo_catalog.fits"))
