"""What ``benchmarks/fuzz.py`` has found: each kind of damage ends in one line that names the damaged file."""

import hashlib
import json

import numpy as np
import pytest
import torch
from _catalogs import POSITIONS, field, psf_image, psfex
from _networks import tiny_weights
from astropy.io import fits
from astropy.table import Table
from safetensors.torch import load, save

from galmeasure import LSQSersicFitter
from galmeasure.calibration import QuantileCalibration
from galmeasure.exceptions import CatalogError, WeightsError
from galmeasure.io import SkySource, open_catalog, read_psf
from galmeasure.networks.correction import Correction, CorrectionConfig
from galmeasure.ood.reference import load_ood
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.utils.digests import DIGEST, companion_card, json_digest
from galmeasure.weights import get_weights, load_network
from galmeasure.weights.cards import card_digest
from galmeasure.weights.corrections import correction_path, load_correction


def one_line(caught, name, longest=700):
    """The message is one line that names a file and no other."""
    text = str(caught.value)
    assert name in text
    assert "\n" not in text
    assert len(text) < longest
    return text


def patch_card(path, keyword, card):
    """Write bytes over the first card of a keyword."""
    data = bytearray(path.read_bytes())
    place = data.index(keyword.ljust(8).encode() + b"=")
    data[place : place + 80] = card.ljust(80).encode()
    path.write_bytes(bytes(data))


@pytest.fixture
def listed(tmp_path):
    """An image with planes, and a list of its sources."""
    field(tmp_path / "image.fits", error=np.ones((150, 180), "f4"))
    Table({"x": POSITIONS[:, 0], "y": POSITIONS[:, 1]}).write(tmp_path / "list.csv")
    return tmp_path


def open_listed(folder, **options):
    return open_catalog(folder / "list.csv", image=folder / "image.fits", psf=psf_image(), size=16, **options)


def test_a_damaged_image_is_not_blamed_on_the_list(listed):
    packed = fits.CompImageHDU(np.random.default_rng(0).normal(size=(150, 180)).astype("f4"), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(listed / "image.fits", overwrite=True)
    data = bytearray((listed / "image.fits").read_bytes())
    data[-30_000:-10_000] = bytes(20_000)
    (listed / "image.fits").write_bytes(bytes(data))
    with pytest.raises(CatalogError) as caught:
        open_listed(listed)
    assert "list.csv" not in one_line(caught, "image.fits")
    with pytest.raises(CatalogError) as caught:
        SkySource(listed / "image.fits", psf=psf_image())
    one_line(caught, "image.fits")


def test_a_damaged_plane_is_named(listed):
    fits.writeto(listed / "mask.fits", np.zeros((150, 180), "u1"))
    patch_card(listed / "mask.fits", "NAXIS2", "NAXIS2  = 'x'")
    with pytest.raises(CatalogError) as caught:
        open_listed(listed, mask=listed / "mask.fits")
    one_line(caught, "mask.fits")


@pytest.mark.parametrize("card", ["GAIN    = 2.5 2.5", "GAIN    = \x01", "GAIN    = ((1"])
def test_a_card_that_cannot_be_read_is_not_used(listed, card):
    with fits.open(listed / "image.fits", mode="update") as hdus:
        hdus[0].header["GAIN"] = 2.5
    patch_card(listed / "image.fits", "GAIN", card)
    source = open_listed(listed)
    assert source.gain is None or source.gain == 1.0  # that of electrons
    assert len(source.read([0, 1])) == 2


VOTABLE = """<?xml version="1.0"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE {table}>
<FIELD name="x" datatype="double"/><FIELD name="y" datatype="double"/><FIELD name="tag" datatype="char" {tag}/>
<DATA><TABLEDATA><TR><TD>30</TD><TD>40</TD><TD>a</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"""


@pytest.mark.parametrize(
    ("table", "tag"),
    [
        ("", 'arraysize="1000000000"'),
        ("", 'arraysize="100000x100000"'),
        ('nrows="1000000000"', 'arraysize="*"'),
        ('nrows="400"', 'arraysize="9000x9"'),
        ("", 'arraysize="' + "9" * 300 + '"'),
    ],
)
def test_counts_of_a_votable(listed, table, tag):
    (listed / "list.vot").write_text(VOTABLE.format(table=table, tag=tag))
    with pytest.raises(CatalogError) as caught:
        open_catalog(listed / "list.vot", image=listed / "image.fits", psf=psf_image(), size=16)
    assert "arraysize and nrows" in one_line(caught, "list.vot")


def test_a_votable_with_padded_text_is_read(listed):
    (listed / "list.vot").write_text(VOTABLE.format(table='nrows="1"', tag='arraysize="9000"'))
    assert len(open_catalog(listed / "list.vot", image=listed / "image.fits", psf=psf_image(), size=16)) == 1


def test_axes_of_a_psfex_model(tmp_path):
    psfex(tmp_path / "m.psf")
    patch_card(tmp_path / "m.psf", "POLNAXIS", "POLNAXIS=           2000000000")
    with pytest.raises(CatalogError, match="polynomials must be in x, or x and y") as caught:
        read_psf(tmp_path / "m.psf")
    one_line(caught, "m.psf")


def test_a_grid_that_photutils_cannot_read(tmp_path):
    grid = fits.PrimaryHDU(np.stack([psf_image()] * 4))
    grid.header.update({"DET_YX0": "x", "NXPSFS": 9})
    grid.writeto(tmp_path / "grid.fits")
    with pytest.raises(CatalogError, match="photutils") as caught:
        read_psf(tmp_path / "grid.fits")
    one_line(caught, "grid.fits")


def test_small_integers_with_a_large_zero(tmp_path):
    """Single precision has not enough digits for all sums of BZERO and a byte."""
    hdu = fits.PrimaryHDU(np.arange(256, dtype="u1").reshape(16, 16))
    hdu.header["BLANK"] = 255
    hdu.writeto(tmp_path / "i.fits")
    with fits.open(tmp_path / "i.fits", mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header["BZERO"] = 2**31
    image = open_catalog(tmp_path / "i.fits", psf=psf_image(), error=1.0).read([0]).image(0)
    assert np.array_equal(image.ravel()[:255], 2.0**31 + np.arange(255))


def test_what_follows_the_last_extension_is_not_read(tmp_path):
    """Astropy takes a header with 1e20 axes behind blank records for one more extension, and makes a list of them."""
    fits.writeto(tmp_path / "c.fits", psf_image(16))
    with (tmp_path / "c.fits").open("ab") as file:
        cards = ["", "XTENSION= 'IMAGE   '", "BITPIX  =                  -32", f"NAXIS   = {10**20:>20}", "END"]
        file.write("".join(f"{card:80}" for card in cards).ljust(2880).encode())
    assert len(open_catalog(tmp_path / "c.fits", psf=psf_image(), error=1.0)) == 1


# Calibrations


def calibration(path, **changes):
    """Calibration file with other entries, and a digest that fits them."""
    each = {"shift": (0.1,), "scale": (0.2,)}
    estimator = LSQSersicFitter().describe_estimator()
    QuantileCalibration(dict.fromkeys(PARAMETER_NAMES, each), ((0.0, 5.0), (-2.0, 2.0)), 200, estimator=estimator).save(
        path, overwrite=True
    )
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({**content, DIGEST: json_digest(content)}))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"ranges": {"snr": [0, 10**400], "size": [0, 1]}},
        {"n_galaxies": float("inf")},
        {"n_galaxies": None},
        {"version": [0] * 1000},
        {"estimator": {"fixed": "9" * 5000}},
    ],
)
def test_values_of_a_calibration(tmp_path, changes):
    path = calibration(tmp_path / "c.json", **changes)
    with pytest.raises(ValueError, match="calibration") as caught:
        LSQSersicFitter(calibration=path)
    one_line(caught, "calibration")


def test_a_calibration_without_end(tmp_path):
    (tmp_path / "c.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="not JSON") as caught:
        QuantileCalibration.read(tmp_path / "c.json")
    one_line(caught, "c.json")


# Weights and what lies beside them


def rewrite(path, **changes):
    """Weights with another card, whose digest fits it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    card = {**json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["card"]), **changes}
    tensors = load(content)
    plain = save(tensors)
    card["tensors_sha256"] = hashlib.sha256(plain[8 + int.from_bytes(plain[:8], "little") :]).hexdigest()
    card["card_sha256"] = card_digest(card)
    path.write_bytes(save(tensors, {"card": json.dumps(card)}))
    path.with_suffix(".json").unlink()
    return path


@pytest.mark.parametrize(
    "change", [{"psf_stretch": [1]}, {"widths": 16}, {"groups": 2.0}, {"centre": True}, {"n": [1]}]
)
def test_types_on_the_card_of_weights(tmp_path, change):
    path = tiny_weights(tmp_path).path
    arguments = get_weights(path).card["arguments"]
    rewrite(path, arguments={**arguments, **change})
    with pytest.raises(WeightsError, match="must be") as caught:
        load_network(path)
    one_line(caught, path.name)


def test_prior_on_the_card_of_weights(tmp_path):
    path = rewrite(tiny_weights(tmp_path).path, prior="x")
    with pytest.raises(WeightsError, match="the prior on its card") as caught:
        get_weights(path).get_prior()
    one_line(caught, path.name)


def corrected(folder, card=None, arguments=None, tensors=()):
    """Weights with a correction that has another card, arguments or tensors, and a digest that fits them."""
    weights = tiny_weights(folder)
    config = CorrectionConfig(hidden=16, flow_hidden=16)
    found = Correction(config, load_network(weights)).state_dict()
    found = {n: t.contiguous() for n, t in found.items() if not n.startswith("flow.base.")} | dict(tensors)
    about = {"format": 1, "weights": weights.name, "weights_sha256": weights.sha256}
    about["arguments"] = config.as_dict() if arguments is None else arguments
    about = companion_card(about, found) if card is None else card
    correction_path(weights.path).write_bytes(save(found, {"card": json.dumps(about)}))
    return weights


@pytest.mark.parametrize(
    "changes",
    [
        {"card": "text"},
        {"card": [1]},
        {"arguments": "text"},
        {"arguments": {"hidden": 10**400}},
        {"arguments": {"hidden": 16.0}},
        {"tensors": {"input_scale": torch.zeros(3)}},
    ],
)
def test_corrections(tmp_path, changes):
    weights = corrected(tmp_path, **changes)
    with pytest.raises(WeightsError) as caught:
        load_correction(weights)
    one_line(caught, correction_path(weights.path).name)


def test_ood_reference(tmp_path):
    shipped = get_weights("study-v2")
    content = shipped.path.with_suffix(".ood").read_bytes()
    card = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["card"])
    tensors = load(content)
    name = next(name for name in tensors if "layers.0.bias" in name)
    tensors[name] = torch.zeros(3)
    card.pop(DIGEST, None)
    (tmp_path / "x.ood").write_bytes(save(tensors, {"card": json.dumps(companion_card(card, tensors))}))
    with pytest.raises(WeightsError) as caught:
        load_ood(tmp_path / "x.ood", shipped.sha256)
    one_line(caught, "x.ood", longest=400)
