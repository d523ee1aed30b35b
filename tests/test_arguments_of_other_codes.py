"""What users of other packages bring: their words, source catalogues, stamps that reach beyond the image."""

import inspect

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import Cutout2D
from astropy.table import Table
from photutils.segmentation import SegmentationImage, SourceCatalog

from galmeasure import Cutouts, LSQSersicFitter, NeuralSersicFitter, decode_flags
from galmeasure.cutouts import cutouts as cutouts_module
from galmeasure.fitters import base
from galmeasure.utils.peer_arguments import OURS

Y, X = np.mgrid[-12:13, -12:13]
PSF = np.exp(-(X**2 + Y**2) / 4.0)
PLACES = [(30.0, 20.0), (42.0, 22.0), (6.0, 70.0), (70.0, 75.0)]
FITTER = LSQSersicFitter()


def field(seed=1):
    """Four Gaussian galaxies in noise of 1, one near the edge and two near one another."""
    rows, columns = np.mgrid[:90, :100]
    image = np.random.default_rng(seed).normal(size=rows.shape)
    for x, y in PLACES:
        image += 150 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0)
    return image


def segments():
    """Round segments of these galaxies, with labels that are no row numbers."""
    rows, columns = np.mgrid[:90, :100]
    labels = np.zeros(rows.shape, dtype=int)
    for label, (x, y) in enumerate(PLACES, 11):
        labels[np.hypot(columns - x, rows - y) < 6.0] = label
    return SegmentationImage(labels)


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("noise", "error"), ("sigma", "error"), ("rms", "error"), ("weights", r"error = 1 / sqrt\(weight\)"),
        ("ivar", r"error = 1 / sqrt\(weight\)"), ("variance", r"error = sqrt\(variance\)"), ("badpix", "mask"),
        ("oversampling", "psf_oversampling"), ("zeropoint", "zero_point"), ("PixScale", "pixel_scale"),
        ("kernel", "psf"), ("errro", "error"), ("p0", "init_params"), ("verbose", "progress_bar"),
    ],
)  # fmt: skip
def test_words_of_others(word, answer):
    with pytest.raises(TypeError, match=f"^fit has no argument '{word}'; here that is {answer}$"):
        FITTER.fit(np.ones((9, 9)), PSF, **{word: 1.0})
    if answer not in ("init_params", "progress_bar"):
        with pytest.raises(TypeError, match=f"^Cutouts has no argument '{word}'; here that is {answer}$"):
            Cutouts(np.ones((9, 9)), PSF, **{word: 1.0})
        with pytest.raises(TypeError, match=f"no argument '{word}'; here that is {answer}$"):
            NeuralSersicFitter().sample(np.ones((9, 9)), PSF, **{word: 1.0})


def test_unknown_words():
    with pytest.raises(TypeError, match="^Cutouts has no argument 'colour'; it has cutouts, psf, error, mask, gain"):
        Cutouts(np.ones((9, 9)), PSF, colour=3)


def test_words_are_those_of_the_signatures():
    for function, known in ((LSQSersicFitter.fit, base._ARGUMENTS), (Cutouts.__init__, cutouts_module._ARGUMENTS)):
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "unknown", "others")]
        assert sorted(names) == sorted(known)
    assert {name.split()[0] for name in OURS} <= set(base._ARGUMENTS)
    words = [word for each in OURS.values() for word in each]
    assert len(words) == len(set(words))
    assert not set(words) & set(base._ARGUMENTS)


@pytest.mark.parametrize("unit", [None, u.nJy])
@pytest.mark.parametrize("with_error", [True, False])
def test_source_catalog(unit, with_error):
    image = field()
    scale = 1.0 if unit is None else unit
    mask = np.zeros(image.shape, dtype=bool)
    mask[22, 32] = True
    error = np.ones(image.shape) * scale if with_error else None
    catalog = SourceCatalog(image * scale, segments(), error=error, mask=mask)
    cutouts = Cutouts(catalog, PSF)
    assert cutouts.ids.tolist() == [11, 12, 13, 14]
    assert cutouts.unit == unit
    table = FITTER.fit(catalog, PSF)
    found = np.stack([np.asarray(table[name], dtype=float) for name in ("x_fit", "y_fit")], axis=1)
    distance = np.hypot(*(found[:, None] - np.array(PLACES)).T)
    assert distance.min(axis=1).max() < 0.1
    np.testing.assert_allclose(np.asarray(table["n_fit"], dtype=float), 0.5, atol=0.1)
    assert all(("error_estimated" in flags) is not with_error for flags in decode_flags(table["flags"]))
    i = int(np.argmin(np.hypot(*(found - PLACES[0]).T)))
    x, y = (np.array([32, 22]) - cutouts.origin[i]).astype(int)
    assert cutouts.mask(i)[y, x]
    x, y = (np.array([42, 22]) - cutouts.origin[i]).astype(int)
    assert cutouts.mask(i)[y, x]
    given = FITTER.fit(catalog, PSF, error=2.0 * scale, ids=["a", "b", "c", "d"])
    assert given["id"].tolist() == ["a", "b", "c", "d"]
    assert len(FITTER.fit(catalog[1:3], PSF)) == len(FITTER.fit(catalog[1], PSF)) + 1 == 2


def test_what_is_missing_is_said():
    image = field()
    catalog = SourceCatalog(image, segments())
    with pytest.raises(TypeError, match="cutouts must be pixels, not a table: give stamps or a photutils"):
        FITTER.fit(catalog.to_table(), PSF)
    with pytest.raises(TypeError, match="cutouts must be pixels, not a table"):
        Cutouts(Table({"cutout": np.ones((3, 9, 9))}), PSF)
    catalog._data = None
    with pytest.raises(ValueError, match=r"cutouts: the SourceCatalog has no image \(data\)"):
        FITTER.fit(catalog, PSF)


@pytest.mark.parametrize("place", [(6.0, 70.0), (70.0, 75.0)])
def test_partial_cutouts_of_a_quantity(place):
    image = field() * u.nJy
    cutout = Cutout2D(image, place, (40, 40), mode="partial")
    table = FITTER.fit([cutout], PSF, error=1.0 * u.nJy)
    assert table["flux_fit"].unit == u.nJy
    assert float(table["n_fit"][0]) == pytest.approx(0.5, abs=0.1)
    assert float(table["x_fit"][0]) == pytest.approx(place[0], abs=0.1)
    assert float(table["y_fit"][0]) == pytest.approx(place[1], abs=0.1)
    again = FITTER.fit(cutout, PSF, error=np.full((40, 40), 1.0) * u.nJy)
    assert float(again["n_fit"][0]) == pytest.approx(float(table["n_fit"][0]), abs=1e-3)
    for error in (1e3 * u.pJy, 1e-3 * u.uJy, np.full((1, 40, 40), 1e-3) * u.uJy, [1e-9 * u.Jy]):
        with pytest.raises(ValueError, match="cutouts have lost their unit, .* and error, in .*Jy, does not fit"):
            FITTER.fit([cutout], PSF, error=error)


def test_partial_cutouts_have_the_unit_of_the_others():
    image = field() * u.nJy
    cutouts = [Cutout2D(image, place, (40, 40), mode="partial") for place in PLACES]
    assert getattr(cutouts[2].data, "unit", None) is None
    assert Cutouts(cutouts, PSF).unit == u.nJy
    assert Cutouts(cutouts[::-1], PSF, error=1e-3 * u.uJy).unit == u.nJy
    assert Cutouts([Cutout2D(image.value, p, (40, 40), mode="partial") for p in PLACES], PSF, error=1.0).unit is None
