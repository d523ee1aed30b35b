"""PSF files of other codes, the response of the pixel, several PSFs in a file, bad pixels, and no PSF at all."""

import functools

import galsim
import numpy as np
import pytest
from _catalogs import POSITIONS, cutout_table, field, gaussian, psf_image, psfex
from astropy.io import fits
from astropy.table import QTable, Table

from galmeasure import Cutouts, Flag, LSQSersicFitter, NeuralSersicFitter, decode_flags, read_psf
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.io import PSFExModel, open_catalog, read_cutouts

SIZE, NOISE = 48, 0.5
FITTER = LSQSersicFitter(crb=False)


@functools.cache
def optics(width=1.5):
    """Sharp PSF of a telescope, without the pixel."""
    return galsim.Airy(lam_over_diam=width, obscuration=0.2)


@functools.cache
def galaxy(width=1.5, n=2.5, r_eff=3.0, flux=2e4, with_psf=True):
    """A noisy stamp drawn with GalSim, whose pixels average over their squares."""
    profile = galsim.Sersic(n=n, half_light_radius=r_eff, flux=flux).shear(q=0.7, beta=30 * galsim.degrees)
    profile = galsim.Convolve(profile, optics(width)) if with_psf else profile
    image = profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0, dtype=float).array
    return image + np.random.default_rng(5).normal(0, NOISE, image.shape)


@functools.cache
def samples(step=4, width=1.5):
    """The PSF sampled finely, without the pixel."""
    side = 47 * step
    return optics(width).drawImage(nx=side, ny=side, scale=1 / step, method="no_pixel", dtype=float).array


def binned(image, step=4):
    """Sums over the pixels of the detector."""
    side = len(image) // step
    return image.reshape(side, step, side, step).sum(axis=(1, 3))


def stpsf(path, names=("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST"), width=1.5, **header):
    """Write a PSF as STPSF does: the images without distortion are of another telescope here."""
    hdus = []
    for name in names:
        fine = samples(4, width if "DIST" in name else 2 * width)
        cards = {"EXTNAME": name, "DET_SAMP": 4, "PIXELSCL": 0.0157, "OVERSAMP": 4}
        if name.startswith("DET"):
            fine, cards = binned(fine), cards | {"OVERSAMP": 1, "CALCSAMP": 4, "PIXELSCL": 0.063}
        hdus.append((fits.ImageHDU if hdus else fits.PrimaryHDU)(fine, fits.Header(cards | header)))
    fits.HDUList(hdus).writeto(path)
    return path


def cat(tmp_path, stamp=None, **columns):
    """A catalogue of one galaxy without a PSF."""
    stamp = galaxy() if stamp is None else stamp
    Table({"cutout": stamp[None], "error": [NOISE], **columns}).write(tmp_path / "c.fits", overwrite=True)
    return tmp_path / "c.fits"


def index(table):
    """Sersic index of the first row."""
    return float(table["n_fit"][0])


class TestSTPSF:
    """The four images of STPSF and WebbPSF."""

    @pytest.mark.parametrize(("width", "names", "oversampling"), [
        (1.5, ("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST"), 4),
        (2.4, ("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST"), 1),
        (1.5, ("OVERDIST", "OVERSAMP"), 4),
        (1.5, ("DET_SAMP", "DET_DIST"), 1),
        (1.5, ("OVERDIST",), 4),
    ])  # fmt: skip
    def test_galaxy_is_right(self, tmp_path, width, names, oversampling):
        stpsf(tmp_path / "p.fits", names, width)
        source = open_catalog(cat(tmp_path, galaxy(width)), psf=tmp_path / "p.fits")
        cutouts = source.read([0])
        assert cutouts.psf_oversampling == oversampling
        chosen = "PSF OVERDIST, convolved with the pixel" if oversampling == 4 else "PSF DET_DIST"
        assert chosen in source.notes
        assert index(FITTER.fit(cutouts)) == pytest.approx(2.5, abs=0.05)
        psf, found = read_psf(tmp_path / "p.fits", return_oversampling=True)
        table = FITTER.fit(galaxy(width), psf, error=NOISE, psf_oversampling=found)
        assert index(table) == pytest.approx(index(FITTER.fit(cutouts)), abs=1e-3)

    def test_without_the_pixel_it_would_be_wrong(self):
        table = FITTER.fit(galaxy(), samples(), error=NOISE, psf_oversampling=4)
        assert index(table) < 2.3

    def test_oversampling_of_the_computation_is_not_that_of_the_image(self, tmp_path):
        stpsf(tmp_path / "p.fits", OVERSAMP=2)
        assert read_psf(tmp_path / "p.fits", return_oversampling=True)[1] == 4

    @pytest.mark.parametrize(("name", "oversampling"), [("OVERSAMP", 4), ("DET_SAMP", 1), ("det_dist", 1), ("2", 4)])
    def test_extension(self, tmp_path, name, oversampling):
        stpsf(tmp_path / "p.fits")
        assert read_psf(f"{tmp_path}/p.fits[{name}]", return_oversampling=True)[1] == oversampling

    def test_option_that_contradicts(self, tmp_path):
        stpsf(tmp_path / "p.fits")
        with pytest.raises(ValueError, match="psf_includes_pixel must be True for this PSF.*DET_DIST"):
            open_catalog(cat(tmp_path), psf=f"{tmp_path}/p.fits[DET_DIST]", psf_includes_pixel=False)
        psfex(tmp_path / "m.psf")
        with pytest.raises(ValueError, match="psf_includes_pixel must be True for this PSF.*PSFEx"):
            open_catalog(cat(tmp_path, x=[1.0], y=[2.0]), psf=tmp_path / "m.psf", psf_includes_pixel=False)


class TestPixel:
    """``psf_includes_pixel``."""

    @pytest.mark.parametrize("step", [1, 3, 4])
    def test_galaxy_of_de_vaucouleurs(self, step):
        stamp = galaxy(n=4.0, r_eff=5.0, flux=1e5)
        right = FITTER.fit(stamp, samples(step), error=NOISE, psf_oversampling=step, psf_includes_pixel=False)
        wrong = FITTER.fit(stamp, samples(step), error=NOISE, psf_oversampling=step)
        assert index(right) == pytest.approx(4.0, abs=0.06)
        assert right["r_eff_fit"][0].value == pytest.approx(5.0, abs=0.06)
        assert index(wrong) < 3.7
        assert right.meta["PSFPIXEL"] == "convolved with the pixel"
        assert "PSFPIXEL" not in wrong.meta

    def test_it_is_the_square_of_a_pixel(self):
        with_pixel = galsim.Convolve(optics(), galsim.Pixel(1.0))
        expected = with_pixel.drawImage(nx=141, ny=141, scale=1 / 3, method="no_pixel", dtype=float).array
        found = Cutouts(galaxy(), samples(3), error=1, psf_oversampling=3, psf_includes_pixel=False)
        assert np.abs(found.psf_image(0) / found.psf_image(0).sum() - expected / expected.sum()).max() < 1e-4
        assert found.psf_image(0).shape == (141, 141)

    def test_models(self):
        from photutils.psf import ImagePSF

        images = Cutouts(galaxy(), samples(3), error=1, psf_oversampling=3, psf_includes_pixel=False)
        model = Cutouts(galaxy(), ImagePSF(samples(3), oversampling=3), error=1, psf_includes_pixel=False)
        np.testing.assert_allclose(model.psf_image(0), images.psf_image(0), atol=1e-9)
        drawn = [Cutouts(galaxy(), optics(), error=1, pixel_scale=1.0, psf_includes_pixel=p) for p in (True, False)]
        np.testing.assert_array_equal(drawn[0].psf_image(0), drawn[1].psf_image(0))

    def test_each_row_has_its_own(self):
        psfs = np.stack([samples(3), samples(3)[::-1], np.full((141, 141), np.nan)])
        cutouts = Cutouts(np.stack([galaxy()] * 3), psfs, error=1, psf_oversampling=3, psf_includes_pixel=False)
        flags = np.concatenate([batch.flags for batch in cutouts.batches()])
        assert (flags & Flag.FAILED > 0).tolist() == [False, False, True]

    def test_wrong_arguments(self):
        with pytest.raises(TypeError, match="^psf_includes_pixel must be True or False, not 'no'"):
            Cutouts(galaxy(), samples(3), psf_oversampling=3, psf_includes_pixel="no")
        model = PSFExModel(gaussian(25, 2)[None], 0, 0.5)
        with pytest.raises(ValueError, match="^psf_includes_pixel must be True for a PSFEx model"):
            Cutouts(galaxy(), model, positions=[[1, 2]], psf_includes_pixel=False)
        with pytest.raises(ValueError, match="^psf_includes_pixel must not be given if cutouts is a Cutouts"):
            FITTER.fit(Cutouts(galaxy(), gaussian(25, 2)), psf_includes_pixel=False)

    def test_command(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        fits.writeto("p.fits", samples(4), fits.Header({"OVERSAMP": 4}))
        cat(tmp_path)
        found = []
        for word in ("yes", "no"):
            args = ["c.fits", "--psf", "p.fits", "--psf-includes-pixel", word, "--method", "lsq", "-o", f"{word}.fits"]
            with pytest.raises(SystemExit) as stop:
                main(args)
            assert stop.value.code == 0
            found.append(index(QTable.read(f"{word}.fits")))
        assert found[0] < 2.3
        assert found[1] == pytest.approx(2.5, abs=0.05)
        assert "PSF convolved with the pixel (option)" in capsys.readouterr().out

    def test_what_is_assumed_is_said(self, tmp_path):
        fits.writeto(tmp_path / "p.fits", samples(4), fits.Header({"OVERSAMP": 4}))
        source = open_catalog(cat(tmp_path), psf=tmp_path / "p.fits")
        assert "PSF with 4 samples per pixel, whose response is taken to be in it" in source.notes


class TestSeveral:
    """Files with several PSFs."""

    def test_images(self, tmp_path):
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(gaussian(25, s), name="CHIP", ver=i) for i, s in ((1, 2), (2, 3)))]
        fits.HDUList(hdus).writeto(tmp_path / "p.fits")
        with pytest.raises(CatalogError, match=r"psf: there are 2 of them, \[1\] CHIP, \[2\] CHIP,2; choose one"):
            read_psf(tmp_path / "p.fits")
        np.testing.assert_array_equal(read_psf(f"{tmp_path}/p.fits[2]"), gaussian(25, 3))

    def test_images_named_psf(self, tmp_path):
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(gaussian(25, s), name="PSF", ver=i) for i, s in ((1, 2), (2, 3)))]
        fits.HDUList(hdus).writeto(tmp_path / "p.fits")
        with pytest.raises(CatalogError, match=r"\[1\] PSF, \[2\] PSF,2"):
            read_psf(tmp_path / "p.fits")
        cutout_table(tmp_path / "t.fits", psf=False)
        for hdu in hdus[1:]:
            fits.append(tmp_path / "t.fits", hdu.data, hdu.header)
        with pytest.raises(CatalogError, match=r"\[2\] PSF, \[3\] PSF,2"):
            open_catalog(tmp_path / "t.fits")
        assert len(open_catalog(tmp_path / "t.fits", psf=f"{tmp_path}/p.fits[1]")) == 7
        field(tmp_path / "i.fits", PSF=psf_image(), PSFIMAGE=psf_image())
        Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / "l.csv")
        with pytest.raises(CatalogError, match=r"\[1\] PSF, \[2\] PSFIMAGE"):
            open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits")

    def test_of_one_cutout(self, tmp_path):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(galaxy(), name="SCI")]
        hdus += [fits.ImageHDU(gaussian(25, s), name="PSF", ver=i) for i, s in ((1, 2), (2, 3))]
        fits.HDUList(hdus).writeto(tmp_path / "m.fits")
        with pytest.raises(CatalogError, match=r"psf: there are 2 of them, \[2\] PSF, \[3\] PSF,2"):
            open_catalog(tmp_path / "m.fits")
        chosen = open_catalog(tmp_path / "m.fits", psf=f"{tmp_path}/m.fits[3]").read([0])
        np.testing.assert_allclose(chosen.psf_image(0), gaussian(25, 3) / gaussian(25, 3).sum(), rtol=1e-2)

    def test_models_of_psfex(self, tmp_path):
        for i in (1, 2):
            psfex(tmp_path / f"{i}.psf")
        with fits.open(tmp_path / "1.psf") as one, fits.open(tmp_path / "2.psf") as two:
            fits.HDUList([*one, two[1]]).writeto(tmp_path / "both.psf")
            rows = np.concatenate([one[1].data, two[1].data])
            fits.HDUList([one[0], fits.BinTableHDU(rows, one[1].header)]).writeto(tmp_path / "rows.psf")
        with pytest.raises(CatalogError, match=r"there are 2 of them, \[1\] PSF_DATA, \[2\] PSF_DATA"):
            read_psf(tmp_path / "both.psf")
        assert isinstance(read_psf(f"{tmp_path}/both.psf[2]"), PSFExModel)
        with pytest.raises(CatalogError, match="PSF_DATA must hold one PSFEx model, not 2"):
            read_psf(tmp_path / "rows.psf")

    def test_what_belongs_to_the_image_is_not_another(self, tmp_path):
        hdus = [fits.PrimaryHDU(gaussian(25, 2)), fits.ImageHDU(np.ones((25, 25)), name="ERR")]
        hdus += [fits.ImageHDU(np.ones((25, 25)), name="MASK"), fits.BinTableHDU(Table({"a": [1]}), name="ASDF")]
        fits.HDUList(hdus).writeto(tmp_path / "p.fits")
        np.testing.assert_array_equal(read_psf(tmp_path / "p.fits"), gaussian(25, 2))

    def test_a_grid_over_the_detector(self, tmp_path):
        places = [(0, 0), (180, 0), (0, 150), (180, 150)]
        cards = {"OVERSAMP": 2, "INSTRUME": "NIRCam", "DETECTOR": "NRCA1", "FILTER": "F200W"}
        cards |= {f"DET_YX{i}": str((float(y), float(x))) for i, (x, y) in enumerate(places)}
        data = np.stack([gaussian(51, s) for s in (2.0, 3.0, 2.0, 3.0)])
        fits.writeto(tmp_path / "g.fits", data, fits.Header(cards))
        field(tmp_path / "i.fits")
        Table({"x": POSITIONS[:4, 0], "y": POSITIONS[:4, 1]}).write(tmp_path / "l.csv")
        source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=tmp_path / "g.fits", error=1.0)
        cutouts = source.read([0, 3])
        assert cutouts.psf_oversampling == 2
        peaks = [cutouts.psf_image(i).max() for i in (0, 1)]
        assert peaks[0] > 1.3 * peaks[1]


class TestBadPixels:
    """PSF images with pixels that are not finite."""

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("corner", [(0, 0), (slice(None, 3), slice(None, 3)), (2, 45), (slice(None), 0)])
    def test_few_are_filled(self, corner, masked):
        psf = optics(2.4).drawImage(nx=47, ny=47, scale=1.0, dtype=float).array
        bad = np.zeros(psf.shape, dtype=bool)
        bad[corner] = True
        given = np.ma.masked_array(psf, bad) if masked else np.where(bad, np.nan, psf)
        cutouts = Cutouts(galaxy(2.4), given, error=NOISE)
        whole = Cutouts(galaxy(2.4), psf, error=NOISE)
        np.testing.assert_allclose(cutouts.psf_image(0), whole.psf_image(0), atol=2e-5)
        table, other = FITTER.fit(cutouts), FITTER.fit(whole)
        assert decode_flags(int(table["flags"][0])) == ["psf_unusual", *decode_flags(int(other["flags"][0]))]
        assert index(table) == pytest.approx(index(other), abs=0.005)

    def test_a_round_image(self):
        rows, columns = np.mgrid[-23:24, -23:24]
        psf = np.where(np.hypot(rows, columns) > 23, np.nan, gaussian(47, 2))
        assert np.isfinite(Cutouts(galaxy(), psf, error=1).psf_image(0)).all()

    @pytest.mark.parametrize("bad", [(23, 23), (slice(20, 27), slice(20, 27)), (slice(None), 23)])
    def test_the_core_is_not_invented(self, bad):
        psf = gaussian(47, 1.5)
        psf[bad] = np.nan
        with pytest.raises(ValueError, match="psf must have only finite pixels"):
            Cutouts(galaxy(), psf, error=1)

    @pytest.mark.parametrize("kind", ["column", "extensions", "cube"])
    def test_one_row_alone_is_lost(self, tmp_path, kind):
        data = np.stack([galaxy(2.4)] * 3)
        psf = optics(2.4).drawImage(nx=47, ny=47, scale=1.0, dtype=float).array
        psfs = np.stack([psf, np.full_like(psf, np.nan), psf])
        options = {}
        if kind == "extensions":
            pairs = [(fits.ImageHDU(d, name="SCI", ver=i), fits.ImageHDU(p, name="PSF", ver=i))
                     for i, (d, p) in enumerate(zip(data, psfs, strict=True), 1)]  # fmt: skip
            fits.HDUList([fits.PrimaryHDU(), *(hdu for pair in pairs for hdu in pair)]).writeto(tmp_path / "c.fits")
        else:
            Table({"cutout": data, **({"psf": psfs} if kind == "column" else {})}).write(tmp_path / "c.fits")
        if kind == "cube":
            fits.writeto(tmp_path / "p.fits", psfs)
            options["psf"] = tmp_path / "p.fits"
        table = FITTER.fit(read_cutouts(tmp_path / "c.fits", error=NOISE, **options))
        assert (table["flags"] & Flag.FAILED > 0).tolist() == [False, True, False]
        assert np.isnan(table["n_fit"][1])
        alone = open_catalog(tmp_path / "c.fits", error=NOISE, **options).read([1])
        assert FITTER.fit(alone)["flags"][0] & Flag.FAILED


class TestNone:
    """No PSF: a delta function."""

    @pytest.mark.parametrize("fitter", [FITTER, NeuralSersicFitter()])
    def test_estimators(self, fitter):
        stamp = galaxy(n=1.5, r_eff=4.0, with_psf=False)
        table = fitter.fit(stamp, error=NOISE)
        assert index(table) == pytest.approx(1.5, abs=0.1)
        assert table["r_eff_fit"][0].value == pytest.approx(4.0, abs=0.1)
        assert "psf_unusual" in decode_flags(int(table["flags"][0]))
        assert table.meta["PSF"] == "none: a delta function"
        residual = fitter.make_residual_images(table, Cutouts(stamp, error=NOISE))[0]
        assert residual.std() == pytest.approx(NOISE, rel=0.1)

    def test_what_describes_an_image_needs_one(self):
        for option in ({"psf_oversampling": 2}, {"psf_flux": 0.9}):
            with pytest.raises(ValueError, match=f"^psf must be given with {next(iter(option))}"):
                Cutouts(galaxy(), error=1, **option)

    def test_files(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        cat(tmp_path, galaxy(n=1.5, r_eff=4.0, with_psf=False))
        with pytest.raises(CatalogError, match="no PSF: .*--psf none"):
            open_catalog("c.fits")
        with pytest.raises(SystemExit) as stop:
            main(["c.fits", "--psf", "none", "--method", "lsq"])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "used no PSF: a delta function" in out
        assert "psf_unusual" in out
        table = QTable.read("c_galmeasure.fits")
        assert table.meta["PSF"] == "none: a delta function"
        assert index(table) == pytest.approx(1.5, abs=0.1)
