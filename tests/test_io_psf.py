"""PSF files: images, cubes, PSFEx models."""

import numpy as np
import pytest
from _catalogs import POSITIONS, field, gaussian, psfex
from astropy.io import fits
from astropy.table import Table

from galmeasure.exceptions import CatalogError
from galmeasure.io import PSFExModel, open_catalog, read_psf


def width(image):
    """Standard deviation of a Gaussian image, from its sum and peak."""
    return np.sqrt(image.sum() / image.max() / (2 * np.pi))


def test_image_and_extension(tmp_path):
    hdus = [
        fits.PrimaryHDU(np.zeros((9, 9))),
        fits.ImageHDU(gaussian(25, 2), name="PSF"),
        fits.ImageHDU(gaussian(11, 1)),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "p.fits")
    assert read_psf(tmp_path / "p.fits").shape == (25, 25)
    assert read_psf(f"{tmp_path}/p.fits[2]").shape == (11, 11)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [("OVERSAMP", 4, 4), ("DET_SAMP", 3, 3), ("PSFSAMP", 0.5, 2), ("PSFSAMP", 2, 2), ("OTHER", 2, 1)],
)
def test_oversampling_keywords(tmp_path, keyword, value, expected):
    fits.writeto(tmp_path / "p.fits", gaussian(25, 2), fits.Header({keyword: value}))
    assert read_psf(tmp_path / "p.fits", return_oversampling=True)[1] == expected


def test_oversampling_must_be_whole(tmp_path):
    fits.writeto(tmp_path / "p.fits", gaussian(25, 2), fits.Header({"PSFSAMP": 0.7}))
    with pytest.raises(CatalogError, match="PSFSAMP: a PSF image must have a whole number of samples"):
        read_psf(tmp_path / "p.fits")


def test_psfex_polynomial(tmp_path):
    basis = psfex(tmp_path / "m.psf")
    model = read_psf(tmp_path / "m.psf")
    assert (model.oversampling, model.pixel_step) == (2, 0.5)
    # POLZERO counts pixels from 1
    np.testing.assert_allclose(model.image_at(89.0, 74.0), basis[0], atol=1e-7)
    expected = basis[0] + 0.5 * basis[1] - 0.25 * basis[2]
    np.testing.assert_allclose(model.image_at(179.0, 36.5), expected, atol=1e-7)
    images = model.images_at([[89.0, 74.0], [179.0, 36.5]])
    np.testing.assert_allclose(images[1], expected, atol=1e-7)


def test_psfex_terms_of_degree_two():
    # one more image a term: 1, x, x^2, y, x y, y^2
    model = PSFExModel(np.arange(6.0)[:, None, None] ** 0 * np.eye(6)[:, :, None] * np.ones(3), 2)
    x, y = 3.0, 5.0
    np.testing.assert_allclose(model.image_at(x - 1, y - 1)[:, 0], [1, x, x * x, y, x * y, y * y])


@pytest.mark.parametrize(("step", "oversampling"), [(0.5, 2), (0.4, 3), (0.66, 2), (1.3, 1), (1.0, 1)])
def test_psfex_step_is_resampled(step, oversampling):
    sigma = 2.0
    model = PSFExModel(gaussian(41, sigma / step)[None], 0, step)
    image = model.image_at(10, 10)
    assert model.oversampling == oversampling
    assert image.shape[0] % 2 == 1
    assert np.unravel_index(image.argmax(), image.shape) == (image.shape[0] // 2,) * 2
    assert width(image) / oversampling == pytest.approx(sigma, rel=2e-3)


def test_psfex_with_other_variables(tmp_path):
    psfex(tmp_path / "m.psf")
    fits.setval(tmp_path / "m.psf", "POLNAME1", value="AIRMASS", ext=1)
    with pytest.raises(CatalogError, match="PSFEx polynomials must be in x, or x and y, not in AIRMASS"):
        read_psf(tmp_path / "m.psf")


def test_psfex_damaged(tmp_path):
    psfex(tmp_path / "m.psf")
    fits.setval(tmp_path / "m.psf", "POLDEG1", value=3, ext=1)
    with pytest.raises(CatalogError, match="damaged PSFEx model"):
        read_psf(tmp_path / "m.psf")


@pytest.mark.parametrize(
    ("basis", "step", "match"), [(np.ones((2, 5, 5)), 1.0, "basis"), (np.ones((1, 5, 5)), 0, "pixel_step")]
)
def test_model_arguments(basis, step, match):
    with pytest.raises(ValueError, match=f"^{match} must"):
        PSFExModel(basis, 0, step)


def test_file_without_psf(tmp_path):
    Table({"a": [1]}).write(tmp_path / "t.fits")
    with pytest.raises(CatalogError, match="psf: neither an image nor a PSFEx model"):
        read_psf(tmp_path / "t.fits")
    (tmp_path / "t.psf").write_text("PSF")
    with pytest.raises(CatalogError, match=r"t\.psf: not a FITS file"):
        read_psf(tmp_path / "t.psf")


def test_psfex_with_a_source_list(tmp_path):
    field(tmp_path / "i.fits")
    psfex(tmp_path / "m.psf")
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / "l.csv")
    cutouts = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=tmp_path / "m.psf", error=1.0).read(
        [1, 4]
    )
    assert cutouts.psf_oversampling == 2
    assert len(cutouts.psf_images) == 2
    assert np.abs(cutouts.psf_image(0) - cutouts.psf_image(1)).max() > 1e-5
