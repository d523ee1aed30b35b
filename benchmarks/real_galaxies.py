"""Ten real SDSS galaxies: does the least-squares fit agree with imfit's, and does it recover its own solutions?

``--data`` is a folder with ``G<id>fitim.fits``, ``sigma``, ``psfim``, ``mskim`` and ``segim`` files, as distributed
with the R package ProFit (ICRAR/ProFit, ``inst/extdata/SDSS``; the images are public SDSS data of GAMA galaxies).
Neighbours, which are other segments of ``segim``, are masked.

imfit integrates the profile over the pixel and convolves the result with a PSF that holds the pixel already, so that
it returns too high an index and too small a radius for compact galaxies. Which of two answers is right is shown by
drawing our solution with GalSim and the same PSF, adding the noise of the error map, and fitting that again.
"""

import argparse
from pathlib import Path

import _one_core  # noqa: F401
import galsim
import numpy as np
import torch
from _report import metadata, report
from _study_galaxies import TIGHT, draw_galaxy
from astropy.io import fits
from astropy.table import Table

from galmeasure import Cutouts, LSQSersicFitter
from galmeasure.parameters import PARAMETER_NAMES

PIXEL_SCALE = 0.339

# imfit 1.9, Levenberg-Marquardt, neighbours masked, no sky, same error maps, PSF normalised to 1:
# mag, n, r_eff_major [arcsec], q, theta [deg], reduced chi2
IMFIT = {
    "G265911": (16.179, 2.81, 2.374, 0.396, 50.9, 0.988),
    "G265940": (17.428, 3.28, 1.836, 0.330, 21.9, 0.966),
    "G266033": (16.695, 3.58, 2.169, 0.562, 129.2, 1.046),
    "G266035": (17.514, 0.81, 3.928, 0.315, 146.2, 0.973),
    "G266662": (15.854, 2.23, 3.845, 0.453, 107.1, 1.027),
    "G267199": (16.887, 1.62, 3.723, 0.579, 132.5, 0.956),
    "G267489": (16.697, 1.49, 4.821, 0.488, 94.8, 1.005),
    "G267525": (18.208, 0.96, 2.490, 0.237, 67.3, 0.994),
    "G278109": (14.840, 4.01, 3.503, 0.483, 80.8, 1.780),
    "G279148": (17.060, 0.99, 2.602, 0.318, 99.5, 1.014),
}
TOLERANCE = {"mag": 0.02, "n": 0.10, "r_eff_major": 0.05, "q": 0.02, "theta": 1.0, "chi2": 0.005}
COMPACT = ("G265911", "G265940", "G266033", "G278109")
"""Compact or of high index: the ones in which imfit's convolution matters."""

N_COMPARABLE = 8.0  # pixels of r_eff_major above which n is compared


def read_galaxy(folder, name):
    """Image, error, PSF and mask of one galaxy."""

    def read(kind):
        return fits.getdata(Path(folder) / f"{name}{kind}.fits").astype(float)

    image, segments = read("fitim"), read("segim").astype(int)
    target = segments[image.shape[0] // 2, image.shape[1] // 2]
    mask = (read("mskim") != 0) | ((segments > 0) & (segments != target))
    return {"image": image, "error": read("sigma"), "psf": read("psfim"), "mask": mask}


def fit(images, galaxy):
    """Fit images that share the noise, PSF and mask of a galaxy."""
    count = len(images)
    cutouts = Cutouts(
        np.stack(images), galaxy["psf"], error=np.repeat(galaxy["error"][None], count, 0),
        mask=np.repeat(galaxy["mask"][None], count, 0), pixel_scale=PIXEL_SCALE, zero_point=0.0,
    )  # fmt: skip
    return LSQSersicFitter().fit(cutouts)


def number(row, name):
    return float(getattr(row[name], "value", row[name]))


def measure(row):
    """mag, n, r_eff_major [arcsec], q, theta [deg], reduced chi2 of a result row."""
    names = ("mag", "n_fit", "r_eff_major", "q", "theta", "chi2_reduced")
    return np.array([number(row, name) for name in names])


def differences(values, published):
    """Differences from imfit: mag, n and r_eff_major relative, q, theta, chi2 relative."""
    delta = values - published
    relative = delta / published
    theta = (delta[4] + 90.0) % 180.0 - 90.0
    return np.array([delta[0], relative[1], relative[2], delta[3], theta, relative[5]])


def comparison_table(galaxies):
    """Our solutions next to imfit's."""
    names = ("mag", "n", "r_eff_major", "q", "theta", "chi2")
    rows, solutions = [], {}
    for name, galaxy in galaxies.items():
        row = fit([galaxy["image"]], galaxy)[0]
        solutions[name] = row
        values = measure(row)
        delta = differences(values, np.array(IMFIT[name]))
        outside = [
            key for key, value in zip(names, delta, strict=True)
            if (value if key == "chi2" else abs(value)) > TOLERANCE[key]
            and not (key == "n" and IMFIT[name][2] / PIXEL_SCALE < N_COMPARABLE)
        ]  # fmt: skip
        rows.append((name, *values, *delta, number(row, "snr"), int(row["flags"]), " ".join(outside) or "-"))
    columns = (
        "id", *names, "dmag", "dn_relative", "dr_relative", "dq", "dtheta", "dchi2_relative", "snr", "flags",
        "outside_tolerance",
    )  # fmt: skip
    return Table(rows=rows, names=columns), solutions


def psf_profile(image):
    """PSF image as a GalSim object that holds the pixel."""
    image = galsim.Image(np.ascontiguousarray(image / image.sum()), scale=PIXEL_SCALE)
    return galsim.InterpolatedImage(image, x_interpolant=galsim.Lanczos(15), flux=1.0, gsparams=TIGHT)


def recovery_rows(name, galaxy, solution, draws, seed):
    """Draw the solution with GalSim, add noise, fit again: what comes back."""
    parameters = np.array([number(solution, f"{key}_fit") for key in PARAMETER_NAMES])
    parameters[2] /= PIXEL_SCALE
    noiseless = draw_galaxy(
        parameters, psf_profile(galaxy["psf"]), galaxy["image"].shape, scale=PIXEL_SCALE, method="no_pixel"
    )
    rng = np.random.default_rng(seed)
    noisy = [noiseless + galaxy["error"] * rng.normal(size=noiseless.shape) for _ in range(draws)]
    table = fit([noiseless, *noisy], galaxy)
    rows = []
    for key, column in (("n", "n_fit"), ("r_eff", "r_eff_fit"), ("q", "q"), ("theta", "theta"), ("mag", "mag")):
        values = np.array([number(row, column) for row in table])
        errors = np.array([number(row, column.replace("_fit", "") + "_err") for row in table])
        delta = values - number(solution, column)
        if key == "theta":
            delta = (delta + 90.0) % 180.0 - 90.0
        pull = delta[1:] / errors[1:]
        imfit = IMFIT[name][{"mag": 0, "n": 1, "q": 3, "theta": 4}[key]] if key != "r_eff" else np.nan
        rows.append(
            (name, key, number(solution, column), imfit, delta[0], delta[0] / errors[0], delta[1:].mean(),
             delta[1:].std(ddof=1), errors[1:].mean(), pull.mean() * np.sqrt(draws), pull.std(ddof=1))
        )  # fmt: skip
    return rows


def recovery_table(galaxies, solutions, names, draws, seed):
    """Recovery of simulated solutions, for several galaxies."""
    rows = []
    for name in names:
        rows += recovery_rows(name, galaxies[name], solutions[name], draws, seed)
    columns = (
        "id", "parameter", "simulated", "imfit", "noise_free_bias", "noise_free_bias_sigma", "mean_bias", "scatter",
        "mean_error", "mean_bias_sigma_of_mean", "pull_std",
    )  # fmt: skip
    return Table(rows=rows, names=columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the FITS files")
    parser.add_argument("--simulate", choices=("compact", "all", "none"), default="compact", help="which to fit again")
    parser.add_argument("--draws", type=int, default=20, help="noise draws of each simulated galaxy (%(default)s)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="cores used (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    galaxies = {name: read_galaxy(args.data, name) for name in IMFIT}
    meta = metadata(args.threads, draws=args.draws, seed=args.seed, tolerances=dict(TOLERANCE))
    table, solutions = comparison_table(galaxies)
    formats = {
        "mag": ".3f", "n": ".2f", "r_eff_major": ".3f", "q": ".3f", "theta": ".1f", "chi2": ".3f", "dmag": "+.3f",
        "dn_relative": "+.1%", "dr_relative": "+.1%", "dq": "+.3f", "dtheta": "+.2f", "dchi2_relative": "+.2%",
    }  # fmt: skip
    report(
        "real_galaxies",
        table,
        meta,
        title="Real galaxies, and differences from imfit",
        formats=formats,
        output=args.output,
    )
    if args.simulate != "none":
        names = COMPACT if args.simulate == "compact" else list(IMFIT)
        recovered = recovery_table(galaxies, solutions, names, args.draws, args.seed)
        title = f"Solutions drawn with GalSim and fitted again, {args.draws} noise draws"
        report("real_galaxies_recovery", recovered, meta, title=title, formats={}, output=args.output)


if __name__ == "__main__":
    main()
