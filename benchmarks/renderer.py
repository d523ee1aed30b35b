"""How exact is the renderer? Against GalSim on a grid, and against direct quadrature for indices up to 8.

The metric is the summed difference in sigma for a galaxy of S/N 100 on an even background,
``100 sqrt(sum((model - truth)**2) / sum(truth**2))``. The aim is below 0.1 with an oversampled PSF and below 0.3 with a
native one. Cases are drawn at random from the grid; PSF images are as large as the stamp, at least twelve times the
FWHM, and go the way of any user's PSF (normalisation with completion of the wings).
"""

import argparse
import itertools
import time

import _one_core  # noqa: F401
import galsim
import numpy as np
import torch
from _quadrature import gaussian_mixture, quadrature_image
from _report import metadata, report
from _study_galaxies import OVERSAMPLING, PSF_TIGHT, draw_galaxy, draw_psf
from astropy.table import Table

from galmeasure.psf.images import normalise_psf
from galmeasure.render import prepare_psf, render_sersic

AIM = {"oversampled": 0.1, "native": 0.3}
SAMPLINGS = {"oversampled": OVERSAMPLING, "native": 1}
COLUMNS = ("n", "r_eff", "g", "psf", "fwhm", "side")

GRID = {
    "n": (0.3, 0.5, 1.0, 2.0, 4.0, 6.2),
    "r_eff": (0.4, 1.0, 2.0, 4.0, 8.0),
    "g": (0.0, 0.3, 0.6, 0.8),
    "psf": ("moffat2", "moffat3.5", "gaussian", "kolmogorov"),
    "fwhm": (2.0, 2.5, 3.0, 4.0, 6.0),
    "side": (32, 33, 64, 65, 128),
}
GRID_QUADRATURE = {
    "n": (0.3, 1.0, 4.0, 6.5, 7.0, 7.5, 8.0),
    "r_eff": (0.4, 1.0, 3.0, 6.0),
    "g": (0.0, 0.4, 0.8),
    "psf": ("gaussian", "moffat2"),
    "fwhm": (2.0, 3.0, 5.0),
    "side": (32, 64),
}


def psf_object(kind, fwhm):
    """PSF in units of pixels."""
    if kind.startswith("moffat"):
        return galsim.Moffat(beta=float(kind[6:]), fwhm=fwhm, gsparams=PSF_TIGHT)
    maker = {"gaussian": galsim.Gaussian, "kolmogorov": galsim.Kolmogorov}[kind]
    return maker(fwhm=fwhm, gsparams=PSF_TIGHT)


def draw_cases(grid, number, seed):
    """Random members of a grid, each with a random angle and sub-pixel centre: list of (case, parameters)."""
    rng = np.random.default_rng(seed)
    members = list(itertools.product(*(grid[name] for name in COLUMNS)))
    chosen = rng.permutation(len(members))[:number] if number else range(len(members))
    cases = []
    for i in chosen:
        case = dict(zip(COLUMNS, members[i], strict=True))
        angle, (dx, dy) = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5, 2)
        centre = (case["side"] - 1) / 2
        g1, g2 = case["g"] * np.cos(angle), case["g"] * np.sin(angle)
        cases.append((case, np.array([1.0, case["n"], case["r_eff"], g1, g2, centre + dx, centre + dy])))
    return cases


def galsim_truth(case, parameters):
    shape = case["side"], case["side"]
    return draw_galaxy(parameters, psf_object(case["psf"], case["fwhm"]), shape, scale=1.0)


def quadrature_truth(case, parameters):
    kind = "gaussian" if case["psf"] == "gaussian" else "moffat"
    return quadrature_image(parameters, gaussian_mixture(kind, case["fwhm"]), (case["side"], case["side"]))


def rendered(case, parameters, oversampling, dtype, perfect_psf):
    """Image by the renderer, and the number of Fourier bands it used."""
    side = case["side"]
    # at least twelve widths, as even or odd as the stamp; an oversampled image has a pixel on its centre
    size = max(side, 2 * int(np.ceil(6 * case["fwhm"])) + side % 2)
    size = size if oversampling == 1 else size | 1
    image = draw_psf(psf_object(case["psf"], case["fwhm"]), size, oversampling, scale=1.0)[None]
    if not perfect_psf:
        image = normalise_psf(image, oversampling)[0].images
    grid = prepare_psf(torch.from_numpy(image), (side, side), oversampling=oversampling, dtype=dtype)
    with torch.inference_mode():
        model = render_sersic(torch.from_numpy(parameters).to(dtype)[None], grid)
    return model[0].double().numpy(), grid.band


def measure(cases, truth, args):
    """One row per case and sampling of the PSF."""
    dtype = getattr(torch, args.dtype)
    rows, seconds = [], 0.0
    for case, parameters in cases:
        begin = time.perf_counter()
        try:
            true = truth(case, parameters)
        except (galsim.GalSimError, MemoryError) as error:
            print(f"{case}: no truth: {error}")
            continue
        seconds += time.perf_counter() - begin
        norm = np.sqrt((true**2).sum())
        for sampling in args.psf:
            model, fold = rendered(case, parameters, SAMPLINGS[sampling], dtype, args.perfect_psf)
            delta = model - true
            rows.append(
                (*case.values(), *parameters[3:], sampling, fold, 100 * np.sqrt((delta**2).sum()) / norm,
                 model.sum() / true.sum() - 1, np.abs(delta).max() / true.max(), true.sum())
            )  # fmt: skip
    names = (
        *COLUMNS, "g1", "g2", "x", "y", "sampling", "bands", "difference_sigma", "relative_flux_difference",
        "largest_over_peak", "flux_in_stamp",
    )  # fmt: skip
    print(f"{len(cases)} images of truth in {seconds:.0f} s", flush=True)
    return Table(rows=rows, names=names)


def summary(table, by):
    """Median, 95th percentile and largest difference by the values of one column."""
    rows = []
    for sampling in dict.fromkeys(table["sampling"]):
        part = table[table["sampling"] == sampling]
        for value in sorted(set(part[by])):
            found = part["difference_sigma"][part[by] == value]
            above = np.mean(found > AIM[sampling])
            rows.append(
                (sampling, by, str(value), len(found), np.median(found), np.percentile(found, 95), found.max(), above)
            )
    names = ("sampling", "by", "value", "cases", "median", "p95", "largest", "fraction_above_aim")
    return Table(rows=rows, names=names)


def run(name, cases, truth, args, meta):
    """Measure, and report summary and worst cases; the whole table is written too."""
    table = measure(cases, truth, args)
    table["all"] = "all"
    parts = [summary(table, by) for by in ("all", *COLUMNS)]
    rows = [row for part in parts for row in part]
    total = Table(rows=rows, names=parts[0].colnames)
    table.remove_column("all")
    report(
        f"renderer_{name}_summary", total, meta, title=f"Renderer against {name}, sigma at S/N 100", output=args.output
    )
    for sampling in args.psf:
        part = table[table["sampling"] == sampling]
        part = part[np.argsort(-part["difference_sigma"])][: args.worst]
        title = f"Worst cases against {name}, {sampling} PSF"
        report(f"renderer_{name}_worst_{sampling}", part, meta, title=title, output=args.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", nargs="+", choices=("galsim", "quadrature"), default=["galsim", "quadrature"])
    parser.add_argument("--cases", type=int, default=600, help="of the GalSim grid, 0 is all of them (%(default)s)")
    parser.add_argument("--quadrature-cases", type=int, default=80, help="of the quadrature grid (%(default)s)")
    parser.add_argument("--psf", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS), help="sampling of the PSF")
    parser.add_argument("--perfect-psf", action="store_true", help="keep the true sum of the PSF image instead")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--worst", type=int, default=15, help="cases listed (%(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    meta = metadata(1, seed=args.seed, dtype=args.dtype, perfect_psf=args.perfect_psf)
    if "galsim" in args.truth:
        run("galsim", draw_cases(GRID, args.cases, args.seed), galsim_truth, args, meta)
    if "quadrature" in args.truth:
        cases = draw_cases(GRID_QUADRATURE, args.quadrature_cases, args.seed)
        run("quadrature", cases, quadrature_truth, args, meta)


if __name__ == "__main__":
    main()
