"""The neural estimator: forms of input, units, geometry, independence of rows, draws, densities, flags, commands."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import test_broken_inputs as broken
import torch
from _agreement import BFLOAT16, ROUNDING, assert_rows_agree, plain
from _galaxies import draw, gaussian_psf, mixed_parameters
from _networks import MomentNetwork, tiny_weights
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable, Table

from galmeasure import Cutouts, Flag, LSQSersicFitter, NeuralSersicFitter, list_weights
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.neural import encode as _encode
from galmeasure.fitters.neural.domain import beyond_domain, piled_up, widen
from galmeasure.fitters.neural.encode import encode_batch
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.networks import PosteriorSummary
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.weights import load_network

SHAPE = (64, 64)
PSF = gaussian_psf(33)
SIGMA = 5.0
NAMES = ("x", "y", "flux", "n", "r_eff", "g1", "g2")
SURVEY = "survey-v3"
SHIPPED = {weights.name for weights in list_weights()}
needs_weights = pytest.mark.skipif(not SHIPPED, reason="no weights in this version")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights")).path


@pytest.fixture(scope="module")
def fitter(weights):
    return NeuralSersicFitter(weights=weights, covariance=True, precision="float32")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    parameters = mixed_parameters(70, SHAPE, rng)
    return (draw(SHAPE, PSF, parameters) + rng.normal(0, SIGMA, (70, *SHAPE))).astype("f4")


# Table


def test_table(fitter, images):
    table = fitter.fit(images[:4], PSF, error=SIGMA, gain=3.0, pixel_scale=0.2)
    assert isinstance(table, QTable)
    for name in NAMES:
        for end in ("_fit", "_err", "_q16", "_q50", "_q84"):
            assert name + end in table.colnames
        assert f"{name}_init" not in table.colnames
        low, middle, high = (plain(table[f"{name}_{q}"]) for q in ("q16", "q50", "q84"))
        assert (low < middle).all()
        assert (middle < high).all()
    for name in ("r_eff_fit", "r_eff_err", "r_eff_q16", "r_eff_major"):
        assert table[name].unit == u.arcsec
    assert (table["method"] == "neural").all()
    assert (table["n_pixels_fit"] == 64**2).all()
    assert table.meta["WEIGHTS"] == "tiny-v1"
    assert len(table.meta["SHA256"]) == 64
    errors = np.stack([plain(table[f"{name}_err"]) for name in PARAMETER_NAMES], 1)
    np.testing.assert_allclose(np.sqrt(np.diagonal(table["covariance"], axis1=1, axis2=2)), errors)


def test_units_scale(fitter, images):
    """The unit of the pixels, and the scale, change numbers and nothing else."""
    plain_table = fitter.fit(images[:3], PSF, error=SIGMA)
    table = fitter.fit(images[:3] * 4.0 * u.nJy, PSF, error=4.0 * SIGMA * u.nJy, pixel_scale=0.5)
    for end in ("_fit", "_err", "_q16"):
        assert table["flux" + end].unit == u.nJy
        np.testing.assert_allclose(table["flux" + end].value, 4.0 * plain(plain_table["flux" + end]), rtol=1e-6)
        np.testing.assert_allclose(table["r_eff" + end].value, 0.5 * plain(plain_table["r_eff" + end]), rtol=1e-6)
        np.testing.assert_allclose(table["n" + end], plain_table["n" + end], rtol=1e-6)


def test_summaries(weights, images):
    tables = {name: NeuralSersicFitter(weights=weights, summary=name).fit(images[:5], PSF, error=SIGMA)
              for name in ("mean", "median", "mode")}  # fmt: skip
    for name in NAMES:
        np.testing.assert_array_equal(plain(tables["median"][f"{name}_fit"]), plain(tables["median"][f"{name}_q50"]))
        np.testing.assert_array_equal(plain(tables["mode"][f"{name}_err"]), plain(tables["mean"][f"{name}_err"]))
    fitter = NeuralSersicFitter(weights=weights)
    at_mode, at_mean = (fitter.log_prob(images[:5], PSF, tables[name], error=SIGMA) for name in ("mode", "mean"))
    draws = fitter.sample(images[:5], PSF, 200, error=SIGMA)
    at_draws = fitter.log_prob(images[:5], PSF, draws, error=SIGMA)
    assert (at_mode > at_draws.max(axis=1)).all()
    assert (at_mode > at_mean).all()


def test_quality_is_that_of_the_model(fitter, images):
    """S/N and chi2 belong to the model that `make_model_images` draws."""
    cutouts = Cutouts(images[:6], PSF, error=SIGMA, gain=2.0)
    table = fitter.fit(cutouts)
    models = np.array(fitter.make_model_images(table, cutouts))
    var = SIGMA**2 + np.maximum(models, 0) / 2.0
    np.testing.assert_allclose(table["snr"], np.sqrt((models**2 / var).sum((1, 2))), rtol=1e-3)
    chi2 = ((images[:6] - models) ** 2 / var).sum((1, 2))
    np.testing.assert_allclose(table["chi2_reduced"], chi2 / (64**2 - 7), rtol=1e-3)


@pytest.mark.parametrize("fwhm", [1.6, 2.5])
def test_quality_of_bright_galaxies(fwhm):
    """Models of bright galaxies are exact: aliases of the PSF are undone as in a fit."""
    psf = gaussian_psf(33, fwhm)
    parameters = mixed_parameters(4, SHAPE, np.random.default_rng(0), flux=1e5)
    cutouts = Cutouts(draw(SHAPE, psf, parameters), psf, error=SIGMA)
    batch = next(iter(cutouts.batches()))
    parameters[:, 0] /= batch.scale
    with torch.inference_mode():
        rows, quality = batch_quality(BatchTensors.of(batch), parameters)
        bounds = batch_quality(BatchTensors.of(batch), parameters, crb=True)[1]
    assert rows.tolist() == [0, 1, 2, 3]
    assert (quality.chi2 < 1.0).all()
    np.testing.assert_allclose(quality.snr, bounds.snr, rtol=1e-4)
    assert torch.isfinite(bounds.crb).all()


# Forms of input


def test_forms_of_input(fitter, images):
    part = images[:3]
    table = fitter.fit(part, PSF, error=SIGMA)
    options = {"error": SIGMA}
    assert_rows_agree(fitter.fit(part.astype(">f4"), PSF.astype(">f8"), **options), table)
    assert_rows_agree(fitter.fit(part, np.repeat(PSF[None], 3, axis=0), **options), table)
    assert_rows_agree(fitter.fit(part, [PSF] * 3, error=[SIGMA] * 3), table)
    assert_rows_agree(fitter.fit(list(part), PSF, **options), table)
    assert_rows_agree(fitter.fit(part, PSF, error=SIGMA, init_params={"n": [1.0, 2.0, 3.0]}), table)
    assert_rows_agree(fitter(Cutouts(part, PSF, error=SIGMA)), table)
    assert_rows_agree(fitter.fit(part[0], PSF, error=SIGMA), table[:1])
    ccd = [CCDData(i, unit="adu", uncertainty=StdDevUncertainty(np.full(SHAPE, SIGMA))) for i in part]
    np.testing.assert_allclose(fitter.fit(ccd, PSF)["n_fit"], table["n_fit"], rtol=1e-4)


def test_masks(fitter, images):
    """What a masked pixel holds does not matter; a NaN is masked, and flagged."""
    image, mask = images[:1].copy(), np.zeros((1, *SHAPE), bool)
    mask[0, 20:24, 30] = mask[0, 5] = True
    masked = fitter.fit(image, PSF, error=SIGMA, mask=mask)
    changed = np.where(mask, 1e8, image)
    assert_rows_agree(fitter.fit(changed, PSF, error=SIGMA, mask=mask), masked)
    assert_rows_agree(fitter.fit(np.ma.MaskedArray(image, mask), PSF, error=SIGMA), masked)
    holes = fitter.fit(np.where(mask, np.nan, image), PSF, error=SIGMA)
    assert holes["flags"][0] & Flag.NONFINITE_PIXELS
    np.testing.assert_allclose(holes["n_fit"], masked["n_fit"], rtol=1e-4)
    assert masked["n_pixels_fit"][0] == 64**2 - mask.sum()
    change = np.abs(masked["n_fit"] - fitter.fit(image, PSF, error=SIGMA)["n_fit"]) / masked["n_err"]
    assert change[0] > 10 * ROUNDING


@pytest.mark.parametrize(("side", "oversampling"), [(32, 1), (34, 1), (99, 3), (100, 3), (66, 2)])
def test_psf_of_any_sampling(fitter, images, side, oversampling):
    table = fitter.fit(images[:8], gaussian_psf(33), error=SIGMA)
    psf = gaussian_psf(side, 3.0 * oversampling)
    other = fitter.fit(images[:8], psf, error=SIGMA, psf_oversampling=oversampling)
    for name in NAMES:
        difference = plain(other[f"{name}_fit"]) - plain(table[f"{name}_fit"])
        assert (np.abs(difference) < 0.02 * plain(table[f"{name}_err"])).all()
    np.testing.assert_allclose(other["chi2_reduced"], table["chi2_reduced"], rtol=1e-3)


@pytest.mark.parametrize(("dx", "dy"), [(0.5, 0.5), (-0.25, 0.0), (1.0, 2.0)])
def test_stars_off_the_middle_shift_positions(fitter, images, dx, dy):
    """As in every fit, the position is that with the PSF as it is given; nothing else changes."""
    rows, columns = (np.arange(41) - 20 - shift for shift in (dy, dx))
    psf = np.exp(-4 * np.log(2) * (rows[:, None] ** 2 + columns**2) / 3.0**2)
    table, other = (fitter.fit(images[:8], each, error=SIGMA) for each in (gaussian_psf(41), psf))
    for name in NAMES:
        difference = plain(other[f"{name}_fit"]) - plain(table[f"{name}_fit"]) + {"x": dx, "y": dy}.get(name, 0.0)
        assert (np.abs(difference) < 0.05 * plain(table[f"{name}_err"])).all()
    np.testing.assert_allclose(other["chi2_reduced"], table["chi2_reduced"], rtol=1e-3)


# Geometry


def moments_of(cutouts):
    """Parameters (N, 7) that the network of moments finds, in stamp pixels, and the blocks that were used."""
    values, blocks = np.full((len(cutouts), 7), np.nan), np.zeros(len(cutouts), int)
    for batch in cutouts.batches():
        for piece in encode_batch(MomentNetwork(), BatchTensors.of(batch)).chunks:
            rows = batch.index[piece.rows[piece.keep]]
            values[rows] = piece.window.to_stamp(piece.summary.mean).numpy()[piece.keep]
            values[rows, 0] *= batch.scale[piece.rows[piece.keep]]
            blocks[rows] = piece.window.block
    return values, blocks


def blobs(rng, shapes, sigmas):
    truth, stamps = np.zeros((len(shapes), 3)), []
    for i, ((ny, nx), sigma) in enumerate(zip(shapes, sigmas, strict=True)):
        x, y, flux = (nx - 1) / 2 + rng.uniform(-1, 1), (ny - 1) / 2 + rng.uniform(-1, 1), rng.uniform(10, 1000)
        rows, columns = np.mgrid[:ny, :nx]
        image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        stamps.append((flux * image / image.sum()).astype("f4"))
        truth[i] = flux, x, y
    return stamps, truth


def test_positions_in_stamps_of_any_shape():
    rng = np.random.default_rng(5)
    shapes = [tuple(rng.integers(35, 150, 2)) for _ in range(60)]
    stamps, truth = blobs(rng, shapes, np.full(60, 2.5))
    values, blocks = moments_of(Cutouts(stamps, PSF, error=1.0))
    np.testing.assert_allclose(values[:, [0, 5, 6]], truth, rtol=1e-5, atol=1e-3)
    assert (blocks == 1).all()


def test_large_galaxies_are_seen_in_blocks(monkeypatch):
    """Each row comes back to its place, whether it is seen again in blocks, and how large, or not."""
    monkeypatch.setattr(_encode, "LARGE", 7.0 / 16.0)
    rng = np.random.default_rng(6)
    sigmas = rng.choice([2.5, 12.0, 20.0], 150)
    stamps, truth = blobs(rng, [(192, 192)] * 150, sigmas)
    values, blocks = moments_of(Cutouts(np.array(stamps), PSF, error=1.0))
    np.testing.assert_allclose(values[:, [0, 5, 6]], truth, rtol=1e-3, atol=3e-3)
    np.testing.assert_allclose(values[:, 2], sigmas, rtol=0.02)
    assert (blocks[sigmas < 3] == 1).all()
    assert (blocks[sigmas > 3] > 1).all()
    assert (blocks[sigmas == 20.0] == 4).all()
    small, blocks = moments_of(Cutouts(np.array(stamps)[:, 64:128, 64:128], PSF, error=1.0))
    assert (blocks == 1).all()
    assert np.isfinite(small).all()


def test_positions_of_the_parent_image(fitter, images):
    local = fitter.fit(images[:2], PSF, error=SIGMA)
    parent = fitter.fit(images[:2], PSF, error=SIGMA, positions=[[531.5, 131.5], [31.5, 41.5]])
    np.testing.assert_allclose(parent["x_fit"] - local["x_fit"], [500, 0], atol=1e-3)
    np.testing.assert_allclose(parent["y_q16"] - local["y_q16"], [100, 10], atol=1e-3)


# Rows are independent


@pytest.mark.parametrize(("precision", "sigmas"), [("float32", ROUNDING), ("bfloat16", BFLOAT16)])
def test_rows_do_not_depend_on_each_other(images, weights, precision, sigmas):
    """Alone, in another order, in other batches, in two threads: the same but for rounding."""
    fitter = NeuralSersicFitter(weights=weights, covariance=True, precision=precision)
    rng = np.random.default_rng(0)
    error = rng.uniform(0.9, 1.1, images.shape) * SIGMA
    psfs = np.array([gaussian_psf(33, fwhm) for fwhm in rng.uniform(1.6, 5, len(images))])
    table = fitter.fit(images, psfs, error=error, gain=2.0)
    order = rng.permutation(len(images))
    assert_rows_agree(fitter.fit(images[order], psfs[order], error=error[order], gain=2.0), table[order], sigmas)
    for i in (0, 37, 69):
        assert_rows_agree(fitter.fit(images[i], psfs[i], error=error[i], gain=2.0), table[[i]], sigmas)
    small = replace(fitter, batch_size=9)
    assert_rows_agree(small.fit(images, psfs, error=error, gain=2.0), table, sigmas)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_rows_agree(small.fit(images, psfs, error=error, gain=2.0), table, sigmas)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", [*range(60), *(pytest.param(i, marks=pytest.mark.slow) for i in range(60, 500))])
def test_broken_rows(seed, weights):
    """Broken rows are flagged, and the good ones are those of a fit without them."""
    rng = np.random.default_rng(seed)
    rows, given, form = broken.row_case(rng)
    summary = str(rng.choice(["mean", "median", "mode"], p=[0.6, 0.3, 0.1]))
    crb = summary != "mode" and rng.random() < 0.2
    fitter = NeuralSersicFitter(weights=weights, summary=summary, crb=crb, precision="float32")
    good = [i for i, (_, name) in enumerate(rows) if name is None]
    images, options = broken.arguments([row for row, _ in rows], given, form)
    alone, its_options = broken.arguments([rows[i][0] for i in good], given, form)
    with broken.no_hang():
        table, expected = fitter.fit(images, **options), fitter.fit(alone, **its_options)
    assert_rows_agree(table[good], expected)
    for row, (_, name) in zip(table, rows, strict=True):
        if name is not None and broken.BREAKS[name][2]:
            broken.assert_failed(row)
        if not row["flags"] & Flag.FAILED:
            for name in NAMES:
                for end in ("fit", "err", "q16", "q50", "q84"):
                    assert np.isfinite(plain(row[f"{name}_{end}"]))


# Draws and densities


def test_draws(fitter, images):
    options = {"error": SIGMA, "pixel_scale": 0.2, "positions": np.full((70, 2), 131.5)}
    draws = fitter.sample(images * u.ct, PSF, 30, seed=4, **{**options, "error": SIGMA * u.ct})
    assert draws.colnames[0] == "id"
    for name in (*NAMES, "r_eff_major", "q", "theta"):
        assert draws[name].shape == (70, 30)
    assert (draws["flux"].unit, draws["r_eff"].unit, draws["theta"].unit) == (u.ct, u.arcsec, u.deg)
    assert (draws["n"] > 0.3).all()
    assert (draws["n"] < 8).all()
    assert (np.abs(draws["x"] - 131.5) <= 1.5).all()
    g = np.hypot(draws["g1"], draws["g2"])
    np.testing.assert_allclose(draws["q"], (1 - g) / (1 + g), rtol=1e-5)
    np.testing.assert_allclose(draws["r_eff_major"] * np.sqrt(draws["q"]), draws["r_eff"], rtol=1e-5)
    assert draws.meta["WEIGHTS"] == "tiny-v1"
    again = fitter.sample(images[:5] * u.ct, PSF, 30, seed=4, error=SIGMA * u.ct, pixel_scale=0.2)
    scatter = draws["n"][:5].std(axis=1, keepdims=True)
    assert (np.abs(again["n"] - draws["n"][:5]) < ROUNDING * scatter).all()
    other = fitter.sample(images[:5] * u.ct, PSF, 30, seed=5, error=SIGMA * u.ct, pixel_scale=0.2)
    assert (np.abs(other["n"] - draws["n"][:5]) > ROUNDING * scatter).mean() > 0.9
    assert len(np.unique(draws["n"])) > 0.99 * 70 * 30  # in single precision a few agree by chance


def test_draws_of_rows_that_cannot_be_measured(fitter, images):
    part = images[:3].copy()
    part[1] = np.nan
    draws = fitter.sample(part, PSF, 7, error=SIGMA)
    assert np.isnan(draws["flux"][1]).all()
    assert np.isfinite(draws["flux"][[0, 2]]).all()
    density = fitter.log_prob(part, PSF, draws, error=SIGMA)
    assert np.isnan(density[1]).all()
    assert np.isfinite(density[[0, 2]]).all()


def test_density_of_draws(fitter, images, weights):
    """The density is that of the numbers behind the draws, over the change of volume."""
    network = load_network(weights)
    batch = next(iter(Cutouts(images[:2], PSF, error=1.0).batches()))
    (piece,) = encode_batch(network, BatchTensors.of(batch)).chunks
    context = piece.context[:1]
    double = SersicPosteriorInDouble(network, context)
    normal = torch.randn((5, 7), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for numbers in normal:
        volume = torch.autograd.functional.jacobian(double.draw, numbers).det().abs().log()
        wanted = -0.5 * (numbers**2).sum() - 3.5 * np.log(2 * np.pi) - volume
        values = double.draw(numbers).detach().numpy()
        table = {name: [value] for name, value in zip(PARAMETER_NAMES, values, strict=True)}
        found = replace(fitter, precision="float32").log_prob(images[:1], PSF, table, error=1.0)
        np.testing.assert_allclose(found, [wanted], atol=0.02)


class SersicPosteriorInDouble:
    """Draws of one galaxy as a differentiable function of their numbers."""

    def __init__(self, network, context):
        import copy

        with torch.inference_mode(False):
            self.network = copy.deepcopy(network).double()
            self.context = type(context)(context.features.double().clone(), context.flux_scale.double().clone())

    def draw(self, numbers):
        return self.network.sample(self.context, numbers[None, None])[0, 0]


def test_density_follows_the_units(fitter, images):
    table = fitter.fit(images[:3], PSF, error=SIGMA)
    density = fitter.log_prob(images[:3], PSF, table, error=SIGMA)
    assert density.shape == (3,)
    scaled = fitter.fit(images[:3] * 10.0, PSF, error=10 * SIGMA, pixel_scale=0.2)
    found = fitter.log_prob(images[:3] * 10.0, PSF, scaled, error=10 * SIGMA, pixel_scale=0.2)
    np.testing.assert_allclose(found, density - np.log(10 * 0.2), atol=1e-3)
    outside = dict(table)
    outside["n_fit"] = np.array([9.0, 0.2, 3.0])
    assert np.isneginf(fitter.log_prob(images[:3], PSF, outside, error=SIGMA)).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, i: f.sample(i, PSF, 0, error=1.0), "n_samples must be an integer of at least 1"),
        (lambda f, i: f.sample(i, PSF, 5, seed=-1, error=1.0), "seed must be an integer of at least 0"),
        (lambda f, i: f.log_prob(i, PSF, {"n": [1.0]}, error=1.0), "parameters must have one row per cutout: 2, not 1"),
        (lambda f, i: f.log_prob(i, PSF, {"n": [1.0, 1.0]}, error=1.0), "parameters must have a column flux"),
        (lambda f, i: f.log_prob(i, PSF, 3, error=1.0), "parameters must be a table"),
        (lambda f, i: NeuralSersicFitter(weights="magic"), "weights must be that of shipped weights"),
        (lambda f, i: replace(f, summary="best"), "summary must be one of 'mean', 'median', 'mode'"),
        (lambda f, i: replace(f, precision="float8"), "precision must be one of"),
        (lambda f, i: replace(f, batch_size=0), "batch_size must be a positive integer"),
        (lambda f, i: f.fit(i, np.full((9, 9), np.nan), error=1.0), "psf must"),
        (lambda f, i: LSQSersicFitter(init="neural"), "init must be a fitter"),
    ],
)
def test_wrong_arguments(fitter, images, call, message):
    with pytest.raises((ValueError, TypeError), match="^" + message):
        call(fitter, images[:2])


# The domain

DOMAIN = {"n": [0.3, 8.0], "r_eff": [0.2, 16.0], "snr": [5.0, 1000.0], "psf_fwhm": [1.5, 7.0], "g_max": 0.9,
          "centre": 1.5}  # fmt: skip


def summary_at(widened=1.0, **values):
    middle = torch.tensor([[100.0, 3.0, 4.0, 0.1, 0.0, 31.5, 31.5]])
    for name, value in values.items():
        middle[0, PARAMETER_NAMES.index(name)] = value
    sigma = widened * torch.tensor([10.0, 0.5, 0.4, 0.05, 0.05, 0.1, 0.1])
    steps = torch.linspace(-2, 2, 5)[:, None]
    return PosteriorSummary(middle, torch.diag_embed(sigma**2)[None], middle[:, None] + steps * sigma)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False), ({"n": 7.8}, True), ({"n": 7.0}, False), ({"n": 0.5}, True), ({"r_eff": 15.9}, True),
        ({"r_eff": 0.9}, False), ({"g1": 0.88}, True), ({"g2": 0.7}, False), ({"x": 32.95}, True), ({"y": 30.05}, True),
    ],
)  # fmt: skip
def test_posteriors_at_the_edge(values, expected):
    assert piled_up(summary_at(**values), DOMAIN).item() is expected


@pytest.mark.parametrize("values", [{"n": 0.5}, {"g1": 0.88}, {"x": 32.95}])
def test_wide_posteriors_at_the_edge_follow_the_prior(values):
    assert not piled_up(summary_at(widened=6.0, **values), DOMAIN).item()


@pytest.mark.parametrize(
    ("snr", "fwhm", "side", "block", "outside", "growth"),
    [
        (50.0, 3.0, 64, 1, False, 0.0), (4.5, 3.0, 64, 1, False, 0.0), (2.0, 3.0, 64, 1, True, np.log(2.5)),
        (3000.0, 3.0, 64, 1, True, 0.0), (50.0, 1.0, 64, 1, True, 8 * np.log(1.5 / (1 - 0.4621) ** 0.5)),
        (50.0, 1.0, 128, 2, False, 0.0), (50.0, np.inf, 64, 1, True, 8.0), (50.0, 14.0, 64, 1, True, 8 * np.log(2)),
        (50.0, 28.0, 256, 4, False, 0.0), (50.0, 3.0, 12, 1, True, 8 * np.log(2)),
    ],
)  # fmt: skip
def test_distance_from_the_domain(snr, fwhm, side, block, outside, growth):
    arguments = (np.array([value]) for value in (snr, fwhm, side, block))
    found = beyond_domain(*arguments, DOMAIN, 24)
    assert found[0].tolist() == [outside]
    np.testing.assert_allclose(found[1], [growth], atol=0.02)


def test_widening():
    rng = np.random.default_rng(0)
    covariance = np.broadcast_to(np.eye(7), (2, 7, 7)).copy()
    quantiles = 5.0 + np.sort(rng.uniform(0, 4, (2, 3, 7)), axis=1)
    before = quantiles.copy()
    widen(covariance, quantiles, np.array([1.0, 3.0]))
    np.testing.assert_allclose(covariance, np.array([1.0, 9.0])[:, None, None] * np.eye(7))
    np.testing.assert_allclose(quantiles[0], before[0])
    np.testing.assert_allclose(quantiles[1, :, 3:] - before[1, 1, 3:], 3 * (before[1, :, 3:] - before[1, 1, 3:]))
    np.testing.assert_allclose(quantiles[1, :, :3] / before[1, 1, :3], (before[1, :, :3] / before[1, 1, :3]) ** 3)


def test_outside_the_domain_is_flagged_and_widened(fitter, images):
    inside = fitter.fit(images[:3], PSF, error=SIGMA)
    table = fitter.fit(images[:3], gaussian_psf(65, 14.0), error=SIGMA)
    assert (table["flags"] & Flag.OUTSIDE_DOMAIN).astype(bool).all()
    small = fitter.fit(images[:3, 26:38, 26:38], PSF, error=SIGMA)
    assert (small["flags"] & Flag.OUTSIDE_DOMAIN).astype(bool).all()
    assert not (inside["flags"] & Flag.FAILED).any()


# Start of a least-squares fit


def test_least_squares_from_the_network(images, weights):
    """The end of a fit does not depend on the start."""
    start = NeuralSersicFitter(weights=weights, precision="float32")
    usual, other = LSQSersicFitter(), LSQSersicFitter(init=start)
    assert "init=NeuralSersicFitter(" in repr(other)
    table, expected = (fitter.fit(images[:20], PSF, error=SIGMA) for fitter in (other, usual))
    guess = start.fit(images[:20], PSF, error=SIGMA)
    begun, network, moments = (
        np.stack([plain(each[f"{name}_{kind}"]) for name in ("n", "x", "g1")])
        for each, kind in ((table, "init"), (guess, "fit"), (expected, "init"))
    )
    assert (np.isclose(begun, network, rtol=1e-4).all(0) | np.isclose(begun, moments, rtol=1e-4).all(0)).all()
    close = 0
    for name in NAMES:
        step = (plain(table[f"{name}_fit"]) - plain(expected[f"{name}_fit"])) / plain(expected[f"{name}_err"])
        close += (np.abs(step) < 0.05).mean() / len(NAMES)
    assert close > 0.9
    given = other.fit(images[:2], PSF, error=SIGMA, init_params=Table(expected[:2]))
    np.testing.assert_allclose(plain(given["n_init"]), plain(expected["n_fit"])[:2], rtol=1e-9)


def test_psf_flux_is_named_in_tables(fitter, images):
    """All of the fitter's methods take the light in the PSF image, which scales flux."""
    table = fitter.fit(images[:2], PSF, error=SIGMA, psf_flux=0.5)
    draws = fitter.sample(images[:2], PSF, 4, error=SIGMA, psf_flux=0.5)
    assert table.meta["PSFFLUX"] == draws.meta["PSFFLUX"] == 0.5
    density = [fitter.log_prob(images[:2], PSF, table, error=SIGMA, psf_flux=flux) for flux in (0.5, 1.0)]
    assert np.isfinite(density[0]).all()
    assert (density[0] != density[1]).all()


# Commands


def run(*args):
    from galmeasure.cli import main

    with pytest.raises(SystemExit) as stop:
        main([*args])
    return stop.value.code


@pytest.fixture
def catalog(tmp_path, monkeypatch, images):
    from astropy.io import fits

    monkeypatch.chdir(tmp_path)
    table = fits.table_to_hdu(Table({"id": np.arange(9), "cutout": images[:9], "error": np.full(9, SIGMA)}))
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(PSF, name="PSF")]).writeto("cat.fits")
    return tmp_path


def test_command(catalog, capsys, weights, fitter, images):
    options = ("--weights", str(weights), "--precision", "float32")
    assert run("cat.fits", *options, "--summary", "median", "--no-progress") == 0
    table = Table.read("cat_galmeasure.fits")
    assert (np.asarray(table["method"]).astype(str) == "neural").all()
    np.testing.assert_array_equal(table["n_fit"], table["n_q50"])
    assert table.meta["WEIGHTS"] == "tiny-v1"
    expected = fitter.fit(images[:9], PSF, error=SIGMA)
    np.testing.assert_allclose(table["r_eff_err"], plain(expected["r_eff_err"]), rtol=ROUNDING)
    assert run("cat.fits", "--method", "lsq", "--init", "neural", "--weights", str(weights), "--rows", "0:3", "-o",
               "lsq.fits") == 0  # fmt: skip
    table = Table.read("lsq.fits")
    begun = LSQSersicFitter(init=NeuralSersicFitter(weights=weights)).fit(images[:3], PSF, error=SIGMA)
    assert (np.abs(table["g1_init"] - begun["g1_init"]) < BFLOAT16 * begun["g1_err"]).all()
    assert run("cat.fits", *options, "--prior", "survey", "--refine", "none", "-o", "prior.fits") == 0
    assert Table.read("prior.fits").meta["PRIOR"] == "survey"
    capsys.readouterr()
    assert run("cat.fits", *options, "--n-jobs", "2", "--batch-size", "2", "-o", "two.fits") == 0
    assert len(Table.read("two.fits")) == 9


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--fit-background",), "fit-background is an option of --method lsq, not of --method neural"),
        (("--init", "neural"), "init is an option of --method lsq, not of --method neural"),
        (("--method", "lsq", "--summary", "mean"), "summary is an option of --method neural or ensemble, not of"),
        (("--method", "lsq", "--weights", "x"), "weights is an option of --method neural, not of --method lsq"),
        (("--weights", "magic"), "weights must be that of shipped weights"),
        (("--weights", "cat.fits"), "cat.fits: "),
        (("--precision", "float8"), "Invalid value for '--precision'"),
    ],
)
def test_command_refuses(catalog, capsys, args, message):
    assert run("cat.fits", *args) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"galmeasure: error: {message}")
    assert not (catalog / "cat_galmeasure.fits").exists()


@needs_weights
def test_list_of_weights(capsys):
    assert run("weights") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["name", "prior", "size", "sha256", "description"]
    assert [line.split()[0] for line in out[1:]] == sorted(SHIPPED)
    assert next(line for line in out if "(default)" in line).startswith(SURVEY)


def test_default_method():
    from galmeasure.fitters.registry import DEFAULT_FITTER

    assert DEFAULT_FITTER == "neural"
    assert "torch" in sys.modules
