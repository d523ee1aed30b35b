"""Other codes that fit a Sersic model with a PSF, called one galaxy at a time, for `speed.py`.

Each runner takes an image, its error map and a PSF and returns ``(values, fine)``: flux, n, r_eff, g1, g2, x, y in
pixels, and whether the fit converged away from its bounds. All of them start from the same neutral values.
"""

import contextlib
import importlib
import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve
from scipy.special import gamma, gammaincinv

START = {"n": 2.0, "r_eff": 1.5, "ellip": 0.2, "theta": 0.8}
N_RANGE = (0.3, 8.0)
ELLIP_MAX = 0.95
SUBSAMPLING = 5


def _total_flux(amplitude, n, r_major, q):
    """Flux to infinity of a profile with surface brightness ``amplitude`` at its half-light radius."""
    b = gammaincinv(2 * n, 0.5)
    return amplitude * 2 * np.pi * n * gamma(2 * n) * np.exp(b) * b ** (-2 * n) * r_major**2 * q


def _standard(amplitude, n, r_major, ellip, theta, x, y):
    """Parameters (7,) from amplitude, ellipticity 1 - b/a and theta in radians from +x."""
    q = 1.0 - ellip
    g = (1 - q) / (1 + q)
    flux = _total_flux(amplitude, n, r_major, q)
    return np.array([flux, n, r_major * np.sqrt(q), g * np.cos(2 * theta), g * np.sin(2 * theta), x, y])


def _inside(value, limits, margin=1e-3):
    low, high = limits
    return low + margin * (high - low) < value < high - margin * (high - low)


def _fine(converged, n, r_major, ellip, side):
    return bool(
        converged and _inside(n, N_RANGE) and _inside(r_major, (0.05, side), 1e-4) and ellip < ELLIP_MAX * 0.999
    )


def _start_values(image):
    """Amplitude and centre of the common start."""
    ny, nx = image.shape
    r_major = START["r_eff"] / np.sqrt(1 - START["ellip"])
    unit = _total_flux(1.0, START["n"], r_major, 1 - START["ellip"])
    return max(image.sum(), 1.0) / unit, r_major, (nx - 1) / 2, (ny - 1) / 2


def _astropy_sersic(image):
    from astropy.modeling.models import Sersic2D

    amplitude, r_major, x, y = _start_values(image)
    side = max(image.shape)
    bounds = {
        "amplitude": (0, None), "r_eff": (0.05, side), "n": N_RANGE, "ellip": (0, ELLIP_MAX),
        "theta": (-2 * np.pi, 2 * np.pi), "x_0": (0, image.shape[1] - 1), "y_0": (0, image.shape[0] - 1),
    }  # fmt: skip
    return Sersic2D(
        amplitude=amplitude, r_eff=r_major, n=START["n"], x_0=x, y_0=y, ellip=START["ellip"], theta=START["theta"],
        bounds=bounds,
    )  # fmt: skip


def _from_astropy(model, converged, image):
    value = {name: float(np.squeeze(getattr(model, name).value)) for name in model.param_names}
    names = ("amplitude", "n", "r_eff", "ellip", "theta", "x_0", "y_0")
    fine = _fine(converged, value["n"], value["r_eff"], value["ellip"], max(image.shape))
    return _standard(*(value[name] for name in names)), fine


def _converged(fitter):
    """What the solver says, MINPACK's or scipy's."""
    if "ierr" in fitter.fit_info:
        return fitter.fit_info["ierr"] in (1, 2, 3, 4)
    return bool(fitter.fit_info.get("success", True))


class Astropy:
    """astropy's Sersic2D averaged over sub-pixels, convolved with the PSF; Levenberg-Marquardt of astropy."""

    name = "astropy"

    def __init__(self, oversampling=1):
        from astropy.modeling.fitting import LevMarLSQFitter

        self.fitter = LevMarLSQFitter
        self.oversampling = oversampling

    def _model(self, image, psf):
        from astropy.modeling import custom_model
        from astropy.modeling.models import Sersic2D

        ny, nx = image.shape
        finer = 3 if self.oversampling == 1 else self.oversampling
        step = (np.arange(finer) + 0.5) / finer - 0.5
        fine_y = (np.arange(ny)[:, None] + step).ravel()
        fine_x = (np.arange(nx)[:, None] + step).ravel()
        grid_x, grid_y = np.meshgrid(fine_x, fine_y)
        per_psf = finer // self.oversampling

        def evaluate(x, y, amplitude=1.0, r_eff=1.0, n=1.0, x_0=0.0, y_0=0.0, ellip=0.0, theta=0.0):
            light = Sersic2D.evaluate(grid_x, grid_y, amplitude, r_eff, n, x_0, y_0, ellip, theta)
            light = light.reshape(ny * self.oversampling, per_psf, nx * self.oversampling, per_psf).mean((1, 3))
            light = fftconvolve(light, psf, mode="same")
            if self.oversampling > 1:  # the PSF holds the pixel: take its value at the pixel's centre
                light = light[self.oversampling // 2 :: self.oversampling, self.oversampling // 2 :: self.oversampling]
            return light.reshape(x.shape)

        start = _astropy_sersic(image)
        values = {name: float(getattr(start, name).value) for name in start.param_names}
        return custom_model(evaluate)(**values, bounds=start.bounds)

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
        fitter = self.fitter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fitter(self._model(image, psf / psf.sum()), x, y, image, weights=1 / error, maxiter=500)
        return _from_astropy(found, _converged(fitter), image)


class Petrofit:
    """petrofit's PSFConvolvedModel2D of astropy's Sersic2D, sub-sampled where it is steep.

    ``TRFLSQFitter`` is what petrofit takes by default, ``LevMarLSQFitter`` the faster choice.
    """

    name = "petrofit"

    def __init__(self, oversampling=1, fitter="LevMarLSQFitter"):
        # petrofit 0.5.0 asks for names that current astropy no longer has, and does not need them
        configuration = importlib.import_module("astropy.config.configuration")
        for name in ("update_default_config", "ConfigurationDefaultMissingError", "ConfigurationDefaultMissingWarning"):
            if not hasattr(configuration, name):
                setattr(configuration, name, (lambda *_, **__: None) if name.islower() else type(name, (Warning,), {}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = importlib.import_module("petrofit").PSFConvolvedModel2D

        class Convolved(base):
            def evaluate(self, x, y, *parameters, **options):  # it indexes what current astropy gives as scalars
                return base.evaluate(self, x, y, *(np.atleast_1d(value) for value in parameters), **options)

        self.model = Convolved
        self.fitter = getattr(importlib.import_module("astropy.modeling.fitting"), fitter)
        self.oversampling = oversampling

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        ny, nx = image.shape
        window = (nx - 1) / 2, (ny - 1) / 2, 16, SUBSAMPLING * self.oversampling  # where the profile is steep
        options = {"oversample": window}
        if self.oversampling > 1:
            options["psf_oversample"] = self.oversampling
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        fitter = self.fitter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.model(_astropy_sersic(image), psf=psf / psf.sum(), **options)
            model.psf_pa.fixed = True
            found = fitter(
                model, x.ravel(), y.ravel(), image.ravel(), weights=1 / error.ravel(), maxiter=500,
                estimate_jacobian=True,
            )  # fmt: skip
        return _from_astropy(found, _converged(fitter), image)


@contextlib.contextmanager
def _silence():
    """Keep what compiled code prints off the screen."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


class Pyimfit:
    """pyimfit's Sersic with its Levenberg-Marquardt solver; the PSF at the image's own sampling."""

    name = "pyimfit"

    def __init__(self, oversampling=1):
        if oversampling != 1:
            msg = "oversampling must be 1 for pyimfit here"
            raise ValueError(msg)
        self.pyimfit = importlib.import_module("pyimfit")

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        amplitude, r_major, x, y = _start_values(image)
        side = max(image.shape)
        description = self.pyimfit.SimpleModelDescription()
        description.x0.setValue(x + 1, [1, image.shape[1]])
        description.y0.setValue(y + 1, [1, image.shape[0]])
        sersic = self.pyimfit.make_imfit_function("Sersic")
        sersic.PA.setValue(np.degrees(START["theta"]) - 90, [-360, 360])
        sersic.ell.setValue(START["ellip"], [0, ELLIP_MAX])
        sersic.n.setValue(START["n"], list(N_RANGE))
        sersic.I_e.setValue(amplitude, [0, 1000 * amplitude])
        sersic.r_e.setValue(r_major, [0.05, side])
        description.addFunction(sersic)
        with _silence():
            fitter = self.pyimfit.Imfit(description, psf=np.ascontiguousarray(psf), maxThreads=1)
            result = fitter.fit(np.ascontiguousarray(image), error=error, error_type="sigma", solver="LM")
        x, y, angle, ellip, n, amplitude, r_major = result.params
        values = _standard(amplitude, n, r_major, ellip, np.radians(angle + 90), x - 1, y - 1)
        return values, _fine(result.fitConverged, n, r_major, ellip, side)


class Statmorph:
    """statmorph's Sersic fit, on the segment of pixels that stand out of the noise, as its users make it."""

    name = "statmorph"

    def __init__(self):
        self.statmorph = importlib.import_module("statmorph")

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        smooth = ndimage.gaussian_filter(image, 1.0)
        labels, _ = ndimage.label(smooth > 0.5 * np.median(error))
        segment = labels == labels[np.unravel_index(smooth.argmax(), smooth.shape)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.statmorph.SourceMorphology(
                image, segment.astype(int), 1, weightmap=error, psf=psf / psf.sum(), cutout_extent=10.0
            )
        names = ("amplitude", "n", "rhalf", "ellip", "theta", "xc", "yc")
        values = [float(getattr(found, f"sersic_{name}")) for name in names]
        fine = found.flag_sersic == 0 and _fine(True, values[1], values[2], values[3], max(image.shape))
        return _standard(*values), fine


class Pysersic:
    """pysersic's maximum of the posterior with its own priors, by its default renderer; it has no sign of failure."""

    name = "pysersic"

    def __init__(self):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pysersic = importlib.import_module("pysersic")
            self.priors = importlib.import_module("pysersic.priors")
            self.random = importlib.import_module("jax.random")

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), _silence():
            warnings.simplefilter("ignore")
            prior = self.priors.SourceProperties(image).generate_prior("sersic")
            fitter = self.pysersic.FitSingle(image, error, (psf / psf.sum()).astype(image.dtype), prior)
            found = fitter.find_MAP(self.random.PRNGKey(1), return_model=False)
        value = {name: float(found[name]) for name in ("flux", "n", "r_eff", "ellip", "theta", "xc", "yc")}
        unit = _total_flux(1.0, value["n"], value["r_eff"], 1.0 - value["ellip"])
        angle = value["theta"] + np.pi / 2  # from +y
        values = _standard(
            value["flux"] / unit, value["n"], value["r_eff"], value["ellip"], angle, value["xc"], value["yc"]
        )
        return values, bool(np.isfinite(values).all())


class AstroPhot:
    """AstroPhot's Sersic with its Levenberg-Marquardt solver."""

    name = "AstroPhot"

    def __init__(self):
        self.astrophot = importlib.import_module("astrophot")
        self.astrophot.config.logger.setLevel("ERROR")

    def fit(self, image, error, psf):
        """Fit one galaxy."""
        amplitude, r_major, x, y = _start_values(image)
        code = self.astrophot
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target = code.TargetImage(data=image, variance=error**2, psf=psf / psf.sum(), pixelscale=1.0)
            model = code.Model(
                model_type="sersic galaxy model", target=target, center=(x, y), q=1.0 - START["ellip"],
                PA=START["theta"], n=START["n"], Re=r_major, Ie=amplitude,
            )  # fmt: skip
            model.initialize()
            fit = code.fit.LM(model, verbose=0).fit()
        x, y = (float(value) for value in model.center.value)
        q, angle, n, r_major, amplitude = (float(getattr(model, name).value) for name in ("q", "PA", "n", "Re", "Ie"))
        angle += np.pi / 2  # from +y
        q, r_major, angle = (q, r_major, angle) if q <= 1 else (1 / q, r_major * q, angle + np.pi / 2)
        fine = _fine("success" in str(fit.message).lower(), n, r_major, 1 - q, max(image.shape))
        return _standard(amplitude, n, r_major, 1 - q, angle, x, y), fine


class Lenstronomy:
    """lenstronomy's elliptical Sersic on three by three points a pixel, by its particle swarm and a simplex."""

    name = "lenstronomy"

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fitting = importlib.import_module("lenstronomy.Workflow.fitting_sequence").FittingSequence
            self.create = importlib.import_module("lenstronomy.ImSim.MultiBand.single_band_multi_model")

    def fit(self, image, error, psf):
        """Fit one galaxy, with pixels of 1 arcsec and the middle of the stamp at the origin."""
        side = max(image.shape)
        middle = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
        data = {
            "image_data": image, "noise_map": error, "ra_at_xy_0": -middle[0], "dec_at_xy_0": -middle[1],
            "transform_pix2angle": np.eye(2), "background_rms": float(np.median(error)), "exposure_time": 1.0,
        }  # fmt: skip
        point_spread = {"psf_type": "PIXEL", "kernel_point_source": psf / psf.sum()}
        numerics = {"supersampling_factor": 3, "supersampling_convolution": False}
        names = ("R_sersic", "n_sersic", "e1", "e2", "center_x", "center_y")
        lower, upper, start, spread = (
            dict(zip(names, values, strict=True))
            for values in (
                (0.05, N_RANGE[0], -0.8, -0.8, -5.0, -5.0), (side, N_RANGE[1], 0.8, 0.8, 5.0, 5.0),
                (START["r_eff"], START["n"], 0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.2, 0.2, 0.5, 0.5),
            )
        )  # fmt: skip
        light = [[start], [spread], [{}], [lower], [upper]]
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), _silence():
            warnings.simplefilter("ignore")
            bands, model = [[data, point_spread, numerics]], {"lens_light_model_list": ["SERSIC_ELLIPSE"]}
            sequence = self.fitting(
                {"multi_band_list": bands, "multi_band_type": "single-band"}, model, {}, {"check_bounds": True},
                {"lens_light_model": light}, verbose=False,
            )  # fmt: skip
            sequence.fit_sequence([
                ["PSO", {"sigma_scale": 1.0, "n_particles": 50, "n_iterations": 100}],
                ["SIMPLEX", {"n_iterations": 500, "method": "Nelder-Mead"}],
            ])  # fmt: skip
            best = sequence.best_fit(bijective=False)["kwargs_lens_light"][0]
            images = self.create.SingleBandMultiModel(bands, model, band_index=0)
            amplitude = images.image_linear_solve(kwargs_lens_light=[best])[3][0]
        size = np.hypot(best["e1"], best["e2"])
        q = (1 - size) / (1 + size)
        r_major = best["R_sersic"] / np.sqrt(q)  # of the ellipse with the same area
        angle = 0.5 * np.arctan2(best["e2"], best["e1"])
        centre = best["center_x"] + middle[0], best["center_y"] + middle[1]
        values = _standard(amplitude, best["n_sersic"], r_major, 1 - q, angle, *centre)
        return values, _fine(True, best["n_sersic"], r_major, 1 - q, side)


RUNNERS = {
    "astropy": lambda: Astropy(),
    "astropy, oversampled PSF": lambda: Astropy(3),
    "petrofit": lambda: Petrofit(),
    "petrofit, its default solver": lambda: Petrofit(fitter="TRFLSQFitter"),
    "petrofit, oversampled PSF": lambda: Petrofit(3),
    "pyimfit": lambda: Pyimfit(),
    "statmorph": lambda: Statmorph(),
    "AstroPhot": lambda: AstroPhot(),
    "pysersic": lambda: Pysersic(),
    "lenstronomy": lambda: Lenstronomy(),
}
