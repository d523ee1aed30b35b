"""Conventions of observatories: constant arrays, asinh pixels, pixels of a parent; and fields given as catalogues."""

import numpy as np
import pytest
from _catalogs import POSITIONS, field, positions_list, psf_image, stamps, tan_wcs
from astropy.io import fits
from astropy.table import Table

from galmeasure import LSQSersicFitter
from galmeasure.cli import main
from galmeasure.exceptions import CatalogError
from galmeasure.flags import Flag
from galmeasure.io import SkySource, open_catalog, read_cutouts

SHAPE = (150, 180)


def failed(table):
    return ((table["flags"] & Flag.FAILED) != 0).tolist()


class TestField:
    """A field that is given as the catalogue is refused, with the call that was meant."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        field("frame.fits", (600, 700), noise=1.0, unit="nanomaggy")
        table = fits.table_to_hdu(Table({"ALLSKY": np.ones((1, 20, 30)), "XINTERP": np.ones((1, 700))}))
        with fits.open("frame.fits") as hdus:
            fits.HDUList([*hdus, fits.ImageHDU(np.ones(700, "f4")), table]).writeto("sdss.fits")
        fits.writeto("p.fits", psf_image())
        fits.writeto("m.fits", np.zeros((600, 700), "i4"))
        return tmp_path

    @pytest.mark.parametrize("name", ["frame.fits", "sdss.fits"])
    @pytest.mark.parametrize(
        "options", [{}, {"mask": "m.fits"}, {"psf": "p.fits"}, {"psf": "p.fits", "mask": "m.fits"},
                    {"psf": "p.fits", "weight": "m.fits"}, {"psf": "p.fits", "error": "m.fits"},
                    {"psf": "p.fits", "segmentation": "m.fits"}, {"psf": "p.fits", "size": 64}]
    )  # fmt: skip
    def test_is_refused(self, folder, name, options, capsys):
        with pytest.raises(ValueError, match=rf"did you mean --image {name} --detect"):
            open_catalog(name, **options)
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        with pytest.raises(SystemExit) as done:
            main([name, *words])
        assert done.value.code == 2
        assert f"--image {name} --detect" in capsys.readouterr().err
        assert not list(folder.glob("*_galmeasure.fits"))

    def test_chosen_by_its_extension(self, folder):
        with pytest.raises(CatalogError, match=r"sdss\.fits\[0\] measures it as one galaxy"):
            open_catalog("sdss.fits", psf="p.fits")
        assert open_catalog("sdss.fits[0]", psf="p.fits").n_pixels(np.arange(1)) == 700 * 600

    def test_image_as_a_list(self, folder):
        for name in ("frame.fits", "sdss.fits"):
            with pytest.raises(CatalogError, match=rf"it holds an image, did you mean --image {name} --detect"):
                open_catalog(name, image="m.fits", psf="p.fits")


class TestSomePSFs:
    """A PSF for only some cutouts of a file costs the others their rows, and nobody gets the PSF of another."""

    WIDTHS = (1.3, 2.0, 2.6)

    def write(self, path, psfs, first=None, names=("PSF",), sampling=None):
        rows, columns = np.mgrid[-12:13, -12:13]
        images = [np.exp(-(rows**2 + columns**2) / (2 * width**2)) for width in self.WIDTHS]
        hdus = [fits.PrimaryHDU()]
        if first is not None:
            hdus.append(fits.ImageHDU(images[first], name="PSF"))
        for number, stamp in zip((2, 3, 7), stamps(3), strict=True):
            hdus.append(fits.ImageHDU(stamp, name="SCI", ver=number))
        for number in psfs:
            hdus.append(fits.ImageHDU(images[(2, 3, 7).index(number)], name=names[0], ver=number))
            if sampling:
                hdus[-1].header["OVERSAMP"] = sampling.pop()
        fits.HDUList(hdus).writeto(path)
        return images

    def test_rows_without(self, tmp_path):
        images = self.write(tmp_path / "m.fits", (2, 7))
        source = open_catalog(tmp_path / "m.fits")
        assert source.notes == ["no PSF for 1 of the 3 cutouts, which fail"]
        cutouts = source.read([2, 1, 0])
        table = LSQSersicFitter().fit(cutouts)
        assert table["id"].tolist() == [7, 3, 2]
        assert failed(table) == [False, True, False]
        for row, image in ((0, images[2]), (2, images[0])):
            np.testing.assert_allclose(cutouts.psf_image(row) / cutouts.psf_image(row).max(), image, atol=1e-6)
        assert failed(LSQSersicFitter().fit(source.read([1]))) == [True]
        with pytest.raises(CatalogError, match="no PSF"):
            open_catalog(f"{tmp_path / 'm.fits'}[SCI,3]")
        assert len(read_cutouts(f"{tmp_path / 'm.fits'}[SCI,7]")) == 1

    def test_one_that_belongs_to_a_cutout(self, tmp_path):
        self.write(tmp_path / "m.fits", (7,))
        assert failed(LSQSersicFitter().fit(read_cutouts(tmp_path / "m.fits"))) == [True, True, False]

    def test_own_and_shared(self, tmp_path):
        """The more specific one wins."""
        images = self.write(tmp_path / "m.fits", (3,), first=2)
        cutouts = read_cutouts(tmp_path / "m.fits")
        assert not any(failed(LSQSersicFitter().fit(cutouts)))
        for row, image in enumerate((images[2], images[1], images[2])):
            np.testing.assert_allclose(cutouts.psf_image(row) / cutouts.psf_image(row).max(), image, atol=1e-6)

    def test_one_is_shared(self, tmp_path):
        self.write(tmp_path / "m.fits", (), first=1)
        assert len(read_cutouts(tmp_path / "m.fits").psf_images) == 1

    def test_option_wins(self, tmp_path):
        self.write(tmp_path / "m.fits", (2, 7))
        assert not any(failed(LSQSersicFitter().fit(read_cutouts(tmp_path / "m.fits", psf=psf_image()))))

    def test_other_sampling_is_refused(self, tmp_path):
        self.write(tmp_path / "m.fits", (2, 3, 7), sampling=[1, 1, 2])
        with pytest.raises(CatalogError, match="samples per pixel, and PSF,.* they must be the same"):
            open_catalog(tmp_path / "m.fits")

    def test_cut_of_another_shape(self, tmp_path):
        self.write(tmp_path / "m.fits", (2, 3, 7))
        with fits.open(tmp_path / "m.fits") as hdus:
            hdus["PSF", 3].data = None
            hdus.writeto(tmp_path / "n.fits")
        assert failed(LSQSersicFitter().fit(read_cutouts(tmp_path / "n.fits"))) == [False, True, False]


def constant(value, shape, name, version=1, bits=-32, **cards):
    """Extension of HST whose pixels are all equal, and not in the file."""
    hdu = fits.ImageHDU(name=name, ver=version)
    hdu.header["BITPIX"] = bits
    hdu.header.update({"NPIX1": shape[1], "NPIX2": shape[0], "PIXVALUE": value} | cards)
    return hdu


class TestConstantArrays:
    @pytest.mark.parametrize("bits", [16, -32])
    def test_planes_of_an_image(self, tmp_path, bits):
        field(tmp_path / "s.fits", noise=2.0)
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(fits.getdata(tmp_path / "s.fits"), name="SCI")]
        planes = [constant(2.0, SHAPE, "ERR"), constant(0, SHAPE, "DQ", bits=bits)]
        fits.HDUList([*hdus, *planes, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "i.fits")
        cutouts = read_cutouts(positions_list(tmp_path / "l.csv"), image=tmp_path / "i.fits")
        assert set(cutouts.error(1)[~cutouts.mask(1)]) == {2.0}
        assert not cutouts.mask(1).any()
        sky = SkySource(tmp_path / "i.fits", size=21)
        assert len(sky.blank_positions(3, 5, np.random.default_rng(1))[0]) == 3
        planes[1].header["PIXVALUE"] = 4
        fits.HDUList([*hdus, *planes, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "j.fits")
        assert read_cutouts(tmp_path / "l.csv", image=tmp_path / "j.fits").mask(1).all()
        assert not read_cutouts(tmp_path / "l.csv", image=tmp_path / "j.fits", mask_bits="0,1").mask(1).any()

    def test_cutouts(self, tmp_path):
        hdus = [fits.PrimaryHDU()]
        for number, stamp in enumerate(stamps(2), 1):
            hdus += [fits.ImageHDU(stamp, name="SCI", ver=number), constant(1.5, stamp.shape, "ERR", number)]
            hdus.append(constant(0, stamp.shape, "DQ", number, bits=16))
        hdus += [constant(7.0, (24, 24), "SCI", 3), constant(1.5, (24, 24), "ERR", 3)]
        fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "m.fits")
        cutouts = read_cutouts(tmp_path / "m.fits")
        assert [set(cutouts.error(i).ravel()) for i in range(3)] == [{1.5}] * 3
        assert (cutouts.image(2) == 7.0).all()
        assert failed(LSQSersicFitter().fit(cutouts)) == [False, False, True]

    def test_other_shape_and_absurd_sizes(self, tmp_path):
        positions_list(tmp_path / "l.csv")
        for shape in ((10, 10), (10**6, 10**6), (-3, 5)):
            field(tmp_path / "s.fits", noise=2.0)
            hdus = [fits.PrimaryHDU(fits.getdata(tmp_path / "s.fits")), constant(2.0, shape, "ERR")]
            fits.HDUList([*hdus, fits.ImageHDU(psf_image(), name="PSF")]).writeto(tmp_path / "i.fits", overwrite=True)
            (tmp_path / "s.fits").unlink()
            if shape == (10, 10):
                with pytest.raises(CatalogError, match=r"error: must have the shape of the image, \(150, 180\)"):
                    open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits")
            else:  # an extension without pixels
                assert "error" not in " ".join(open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits").notes)


class TestAsinhPixels:
    """Stacks of Pan-STARRS 1 are stored as asinh magnitudes, and measured as fluxes."""

    SOFTENING, OFFSET = 13.4, 1.7

    def write(self, path, image, name=None, extra=()):
        stored = 2.5 / np.log(10) * np.arcsinh((image - self.OFFSET) / (2 * self.SOFTENING))
        scale = (stored.max() - stored.min()) / 60000
        zero = (stored.max() + stored.min()) / 2
        integers = np.round((stored - zero) / scale).astype("i2")
        integers[0, 0] = -32768
        hdu = fits.CompImageHDU(integers, name=name)
        hdu.header.update({"BSCALE": scale, "BZERO": zero, "BLANK": -32768})
        hdu.header.update({"BSOFTEN": self.SOFTENING, "BOFFSET": self.OFFSET})
        fits.HDUList([fits.PrimaryHDU(), hdu, *extra]).writeto(path)

    def test_image(self, tmp_path):
        image = field(tmp_path / "s.fits", noise=2.0).astype(float)
        self.write(tmp_path / "i.fits", image)
        positions_list(tmp_path / "l.csv")
        source = open_catalog(tmp_path / "l.csv", image=tmp_path / "i.fits", psf=psf_image(), error=2.0)
        assert source.notes == ["asinh magnitudes converted to fluxes (BSOFTEN and BOFFSET)"]
        cutouts = source.read([1])
        x0, y0 = cutouts.origin[0].astype(int)
        ny, nx = cutouts.shapes[0]
        np.testing.assert_allclose(cutouts.image(0), image[y0 : y0 + ny, x0 : x0 + nx], rtol=1e-3, atol=0.05)
        assert len(open_catalog(tmp_path / "i.fits", detect=True, psf=psf_image())) >= 4

    def test_cutout(self, tmp_path):
        stamp = stamps(1)[0].astype(float)
        self.write(tmp_path / "c.fits", stamp, "SCI", [fits.ImageHDU(psf_image(), name="PSF")])
        source = open_catalog(tmp_path / "c.fits")
        assert source.notes == ["asinh magnitudes converted to fluxes (BSOFTEN and BOFFSET)"]
        cutouts = source.read([0])
        np.testing.assert_allclose(cutouts.image(0).ravel()[1:], stamp.ravel()[1:], rtol=1e-3, atol=0.01)
        assert cutouts.mask(0).sum() == 1

    @pytest.mark.parametrize(
        "cards", [{"BSOFTEN": 3.0}, {"BSOFTEN": "a", "BOFFSET": 0.0}, {"BSOFTEN": -1.0, "BOFFSET": 0.0}]
    )
    def test_that_are_not_understood(self, tmp_path, cards):
        field(tmp_path / "i.fits", PSF=psf_image())
        with fits.open(tmp_path / "i.fits", mode="update") as hdus:
            hdus[0].header.update(cards)
        with pytest.raises(CatalogError, match="image: (BSOFTEN|BOFFSET) must be"):
            open_catalog(positions_list(tmp_path / "l.csv"), image=tmp_path / "i.fits", error=1.0)


class TestParentPixels:
    """Positions are pixels of the image; where they may be those of its parent, this is said, or refused."""

    CORNER = np.array([1000.0, 400.0])

    @pytest.fixture
    def image(self, tmp_path):
        field(tmp_path / "i.fits", noise=2.0, PSF=psf_image())
        with fits.open(tmp_path / "i.fits", mode="update") as hdus:
            hdus[0].header.update({"LTV1": -self.CORNER[0], "LTV2": -self.CORNER[1]})
        return tmp_path / "i.fits"

    def open(self, image, positions, **columns):
        Table({"x": positions[:, 0], "y": positions[:, 1], **columns}).write(image.with_name("l.ecsv"))
        return open_catalog(image.with_name("l.ecsv"), image=image, error=2.0, size=31)

    def test_pixels_of_the_image(self, image):
        source = self.open(image, POSITIONS)
        assert source.notes[-1] == "x and y taken as pixels of the image, not of its parent (LTV1 -1000, LTV2 -400)"
        np.testing.assert_array_equal(source._positions, POSITIONS)

    def test_pixels_of_the_parent(self, image):
        with pytest.raises(
            CatalogError, match=r"x and y: 0 of 5 positions lie in the image, and 5 would if they were "
        ):
            self.open(image, POSITIONS + self.CORNER)

    @pytest.mark.parametrize("shift", [0, 1])
    def test_sky_positions_decide(self, image, shift):
        ra, dec = tan_wcs(SHAPE).all_pix2world(*POSITIONS.T, 0)
        source = self.open(image, POSITIONS + shift * self.CORNER, ra=ra, dec=dec)
        np.testing.assert_allclose(source._positions, POSITIONS, atol=1e-6)
        said = "x and y are pixels of the parent image (LTV1 -1000, LTV2 -400), as the sky positions say"
        assert (said in source.notes) == bool(shift)

    @pytest.mark.parametrize("cards", [{}, {"LTV1": 0.0, "LTV2": 0.0}, {"LTV1": "none"}, {"LTV1": 3.0, "LTM1_1": 0.5}])
    def test_no_parent(self, tmp_path, cards):
        field(tmp_path / "i.fits", noise=2.0, PSF=psf_image())
        with fits.open(tmp_path / "i.fits", mode="update") as hdus:
            hdus[0].header.update(cards)
        assert "parent" not in " ".join(self.open(tmp_path / "i.fits", POSITIONS).notes)
