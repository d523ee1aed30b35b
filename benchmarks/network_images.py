"""How good are denoised and decoded stamps? Against the noiseless truth, and beside the physical renderer.

Data set 1 of the study for the denoisers: the peak signal-to-noise ratio, with the brightest pixel of each stamp as the
peak, of the noisy and of the denoised stamps and of the models that the renderer draws from the measurement with
``study-v2``; and the rms of the residual in units of the noise, of the whole stamp and of the central 16 x 16 pixels.
The reference galaxy at S/N 60 and 30 for the decoder, whose images are compared with the truth and with those of the
renderer from the same parameters.
"""

import argparse

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure import Cutouts, NeuralSersicFitter, get_weights, list_weights
from galmeasure.simulation.stamps import simulate_expected
from galmeasure.training import read_training_config

MIDDLE = slice(24, 40)
REFERENCE = {"flux": 1e5, "n": 3.0, "r_eff": 0.3 / 0.23, "g1": -0.069, "g2": 0.15, "x": 31.5, "y": 31.5}


def residuals(images, truth, noise):
    """Peak signal-to-noise ratio in dB, and rms over the noise of the whole and of the middle."""
    error = images - truth
    peak = truth.max(axis=(1, 2))
    ratio = 10.0 * np.log10(peak**2 / (error**2).mean(axis=(1, 2)))
    white = error / noise
    return (
        np.mean(ratio),
        np.std(ratio) / np.sqrt(len(ratio)),
        *(float(np.sqrt((part**2).mean())) for part in (white, white[:, MIDDLE, MIDDLE])),
    )


def denoisers(args):
    """Noisy, denoised and modelled stamps of data set 1, in units of the noise."""
    generator = torch.Generator().manual_seed(args.seed)
    with torch.inference_mode():
        simulation = read_training_config("xception-set1-v1").simulation
        expected = simulate_expected(simulation, args.number, generator=generator)
        stamps = expected.observe(generator)
    truth, images = expected.expected.double().numpy(), stamps.image.double().numpy()
    cutouts = Cutouts(images, stamps.psf_images[0].numpy(), error=1.0, gain=stamps.gain.double().numpy())
    yield "noisy stamp", "set 1", *residuals(images, truth, 1.0)
    for name in ("edsr-xception-set1-v1", "rdn-xception-set1-v1"):
        if name in {weights.name for weights in list_weights()}:
            denoised = np.stack(NeuralSersicFitter(weights=name).denoise(cutouts))
            yield f"denoised, {name}", "set 1", *residuals(denoised, truth, 1.0)
    fitter = NeuralSersicFitter(weights="study-v2")
    models = np.stack(fitter.make_model_images(fitter.fit(cutouts), cutouts))
    yield "model of the mean, study-v2", "set 1", *residuals(models, truth, 1.0)


def decoder(args):
    """Decoded reference galaxy beside the renderer's, in units of the noise."""
    from _study_galaxies import draw_psf, moffat

    psf = draw_psf(moffat(0.5))
    for snr, sigma in ((60, 200.0), (30, 400.0)):
        rng = np.random.default_rng(args.seed + snr)
        empty = Cutouts(np.zeros((1, 64, 64)), psf, error=sigma, gain=1.0)
        fitter = NeuralSersicFitter(weights="autoencoder-set3-v1")
        table = Table({f"{name}_fit": [value] for name, value in REFERENCE.items()})
        truth = np.asarray(fitter.make_model_images(table, empty)[0])[None]
        images = rng.poisson(truth, (args.draws, 64, 64)) + rng.normal(0.0, sigma, (args.draws, 64, 64))
        cutouts = Cutouts(images, psf, error=sigma, gain=1.0)
        decoded = np.stack(fitter.reconstruct(cutouts))
        models = np.stack(fitter.make_model_images(fitter.fit(cutouts), cutouts))
        where = f"reference galaxy, S/N {snr}"
        yield "decoded", where, *residuals(decoded, np.broadcast_to(truth, decoded.shape), sigma)
        yield "renderer, same parameters", where, *residuals(models, np.broadcast_to(truth, models.shape), sigma)
        yield "decoded against renderer", where, *residuals(decoded, models, sigma)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=2000, help="stamps of data set 1 (%(default)s)")
    parser.add_argument("--draws", type=int, default=500, help="draws of the reference galaxy (%(default)s)")
    parser.add_argument("--seed", type=int, default=818)
    parser.add_argument("--output")
    args = parser.parse_args()
    rows = [*denoisers(args), *decoder(args)]
    names = ("image", "galaxies", "psnr_db", "psnr_error", "rms_over_noise", "rms_over_noise_middle")
    shas = {weights.name: weights.sha256[:12] for weights in map(get_weights, ("study-v2", "autoencoder-set3-v1"))}
    meta = metadata(1, weights=shas, options=vars(args))
    formats = {"psnr_db": ".2f", "psnr_error": ".2f", "rms_over_noise": ".3f", "rms_over_noise_middle": ".3f"}
    report("network_images", Table(rows=rows, names=names), meta, title="Images of networks", formats=formats,
           output=args.output)  # fmt: skip


if __name__ == "__main__":
    main()
