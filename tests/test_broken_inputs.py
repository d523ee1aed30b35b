"""A thousand randomly broken inputs: a clear error or a flagged row, and the good rows as if nothing had happened."""

import signal
from contextlib import contextmanager

import numpy as np
import pytest
from _agreement import STOPPING, assert_rows_agree
from _catalogs import cutout_table, stamps
from _galaxies import draw, gaussian_psf, mixed_parameters
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from galmeasure import Flag, LSQSersicFitter
from galmeasure.cli import main
from galmeasure.io import read_cutouts
from galmeasure.parameters import PARAMETERS

N_FAST = 150
N_ALL = 1000
SECONDS = 600  # a case takes less than one, on a busy machine some

SHAPES = ((24, 24), (25, 23), (17, 30))
PSF = gaussian_psf(21)
SIGMA = 5.0

SEEDS = [
    *range(N_FAST),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(N_FAST, N_ALL)),
]


@contextmanager
def no_hang():
    """Raise if what is inside does not end."""

    def stop(signum, frame):
        msg = f"not done after {SECONDS} s"
        raise TimeoutError(msg)

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_failed(row):
    """The row is flagged, and nothing in it looks like a measurement."""
    assert row["flags"] & Flag.FAILED
    for parameter in PARAMETERS:
        for suffix in ("fit", "err"):
            assert np.isnan(row[f"{parameter.name}_{suffix}"])
    assert np.isnan(row["snr"])


# Rows that are broken, among good ones


class Row:
    """One galaxy with all that may be said about it."""

    def __init__(self, rng, shape, dtype):
        self.image = draw(shape, PSF, mixed_parameters(1, shape, rng))[0] + rng.normal(0, SIGMA, shape)
        self.image = self.image.astype(dtype)
        self.error, self.error_map = SIGMA, np.full(shape, SIGMA) * rng.uniform(0.9, 1.1, shape)
        self.mask = rng.random(shape) < 0.02
        self.psf, self.gain, self.scale = PSF, 10.0, 0.2
        self.position = rng.uniform(0, 1000, 2)
        self.init = {"n": 2.0, "r_eff": np.nan, "g1": 0.0, "g2": 0.0, "flux": np.nan}


def _pixels(value, fraction=1.0):
    def change(row, rng):
        image = row.image.astype(float)
        image[rng.random(image.shape) < fraction] = value
        row.image = image.astype(row.image.dtype) if np.abs(value) < 1e38 or not np.isfinite(value) else image

    return change


def _set(name, value):
    def change(row, rng):
        setattr(row, name, value)

    return change


def _noise(value):
    def change(row, rng):
        row.error = value
        row.error_map = np.full_like(row.error_map, value)

    return change


def _cut(*shape):
    def change(row, rng):
        part = np.s_[: shape[0], : shape[1]]
        row.image, row.error_map, row.mask = row.image[part], row.error_map[part], row.mask[part]

    return change


def _init(**values):
    def change(row, rng):
        row.init = {**row.init, **values}

    return change


def _scaled(factor):
    def change(row, rng):
        row.image = row.image.astype(float) * factor

    return change


def _other_type(dtype):
    def change(row, rng):
        row.image = row.image.astype(dtype)

    return change


# name: (what it does, arguments that must be given by row, whether the row must fail)
BREAKS = {
    "nan": (_pixels(np.nan), (), True),
    "inf": (_pixels(np.inf), (), True),
    "minus inf": (_pixels(-np.inf), (), True),
    "half nan": (_pixels(np.nan, 0.5), (), False),
    "some inf": (_pixels(np.inf, 0.1), (), False),
    "constant": (_pixels(7.0), (), False),
    "zeros": (_pixels(0.0), (), False),
    "huge": (_pixels(3e37), (), False),
    "very huge": (_pixels(1e300), ("float64",), False),
    "a huge pixel": (_pixels(-1e25, 0.003), (), False),
    "negative": (_scaled(-1.0), (), False),
    "faint": (_scaled(1e-30), (), False),
    "bright": (_scaled(1e8), (), False),
    "all masked": (lambda row, rng: setattr(row, "mask", np.ones_like(row.mask)), ("mask",), True),
    "five pixels": (lambda row, rng: setattr(row, "mask", np.arange(row.mask.size).reshape(row.mask.shape) > 4),
                    ("mask",), True),
    "one pixel": (_cut(1, 1), ("list",), True),
    "one row": (_cut(1, 30), ("list",), False),
    "two by three": (_cut(2, 3), ("list",), True),
    "other type": (_other_type(">f8"), ("list",), False),
    "integers": (_other_type("i8"), ("list",), False),
    "no noise": (_noise(0.0), ("error",), True),
    "negative noise": (_noise(-3.0), ("error",), True),
    "nan noise": (_noise(np.nan), ("error",), True),
    "infinite noise": (_noise(np.inf), ("error",), True),
    "tiny noise": (_noise(1e-30), ("error",), False),
    "huge noise": (_noise(1e30), ("error",), False),
    "zero psf": (_set("psf", np.zeros_like(PSF)), ("psf",), True),
    "nan psf": (_set("psf", np.where(PSF > 0.01, np.nan, PSF)), ("psf",), True),
    "negative psf": (_set("psf", -PSF), ("psf",), True),
    "psf of noise": (lambda row, rng: setattr(row, "psf", rng.normal(0.001, 1, PSF.shape)), ("psf",), False),
    "psf in the corner": (lambda row, rng: setattr(row, "psf", np.roll(PSF, (8, 8), (0, 1))), ("psf",), False),
    "psf of one pixel": (lambda row, rng: setattr(row, "psf", PSF * (PSF.max() == PSF)), ("psf",), False),
    "negative gain": (_set("gain", -1.0), ("gain",), True),
    "nan gain": (_set("gain", np.nan), ("gain",), True),
    "tiny gain": (_set("gain", 1e-25), ("gain",), False),
    "no scale": (_set("scale", 0.0), ("scale",), True),
    "nan scale": (_set("scale", np.nan), ("scale",), True),
    "nan position": (_set("position", np.array([np.nan, 3.0])), ("position",), True),
    "huge position": (_set("position", np.array([1e300, -1e300])), ("position",), False),
    "start of a wrong sign": (_init(n=-5.0, r_eff=-1.0, flux=-1e9), ("init",), False),
    "infinite start": (_init(n=np.inf, r_eff=np.inf, flux=np.inf, g1=-np.inf), ("init",), False),
    "huge start": (_init(n=1e30, r_eff=1e30, flux=1e30, g1=0.7, g2=0.7), ("init",), False),
    "tiny start": (_init(n=1e-30, r_eff=1e-30, flux=1e-30), ("init",), False),
}  # fmt: skip
OPTIONAL = ("list", "error", "mask", "psf", "gain", "scale", "position", "init", "float64")


def arguments(rows, given, form):
    """Arguments of ``fit`` for some rows; ``form`` says in which form each is given."""
    images = [row.image for row in rows]
    options = {"psf": [row.psf for row in rows] if "psf" in given else PSF}
    stack = list if "list" in given else np.array
    if form["error"] == "rows":
        options["error"] = [row.error for row in rows]
    elif form["error"] == "maps":
        options["error"] = stack([row.error_map for row in rows])
    elif form["error"] == "one":
        options["error"] = SIGMA
    if "mask" in given:
        options["mask"] = stack([row.mask for row in rows])
    if "gain" in given:
        options["gain"] = [row.gain for row in rows]
    if "scale" in given:
        options["pixel_scale"] = [row.scale for row in rows]
    if "position" in given:
        options["positions"] = [row.position for row in rows]
    if "init" in given:
        options["init_params"] = {name: [row.init[name] for row in rows] for name in rows[0].init}
    return stack(images), options


def row_case(rng):
    """Good and broken rows in random order, and the form in which they are given."""
    names = list(rng.choice(list(BREAKS), rng.integers(1, 4)))
    needed = {need for name in names for need in BREAKS[name][1]}
    given = needed | {name for name in OPTIONAL if rng.random() < 0.3}
    given -= set() if "error" in needed else {"error"}
    form = {"error": rng.choice(["rows", "maps"] if "error" in needed else ["one", "rows", "maps", "none"])}
    one_shape = SHAPES[rng.integers(len(SHAPES))]
    dtype = "f8" if "float64" in given else rng.choice(["f4", ">f4", "f8"])

    def new_row():
        shape = SHAPES[rng.integers(len(SHAPES))] if "list" in given else one_shape
        return Row(rng, shape, dtype)

    good = [new_row() for _ in range(rng.integers(2, 5))]
    bad = [(new_row(), name) for name in names]
    for row, name in bad:
        BREAKS[name][0](row, rng)
    rows = [(row, None) for row in good] + bad
    rows = [rows[i] for i in rng.permutation(len(rows))]
    return rows, given, form


def check_rows(rng, number, tmp_path, capsys):
    rows, given, form = row_case(rng)
    fitter = LSQSersicFitter(
        fit_background=bool(rng.random() < 0.2),
        loss="student-t" if rng.random() < 0.2 else "gaussian",
        crb=bool(rng.random() < 0.3),
        covariance=bool(rng.random() < 0.3),
    )
    good = [i for i, (_, name) in enumerate(rows) if name is None]
    images, options = arguments([row for row, _ in rows], given, form)
    alone, its_options = arguments([rows[i][0] for i in good], given, form)
    with no_hang():
        table = fitter.fit(images, **options)
        expected = fitter.fit(alone, **its_options)
    assert len(table) == len(rows)
    assert_rows_agree(table[good], expected, STOPPING)
    for row, (_, name) in zip(table, rows, strict=True):
        if name is not None and BREAKS[name][2]:
            assert_failed(row)
        if not row["flags"] & Flag.FAILED:
            assert np.isfinite([u.Quantity(row[f"{p.name}_fit"]).value for p in PARAMETERS]).all()


# Arguments that are wrong as a whole

N_ROWS = 3
SHAPE = SHAPES[0]

# argument, what is given for it, and whether the cutouts have a unit
WRONG = [
    ("cutouts", None, False),
    ("cutouts", "galaxies.fits", False),
    ("cutouts", [], False),
    ("cutouts", np.zeros((0, 24, 24)), False),
    ("cutouts", np.zeros((3, 0, 24)), False),
    ("cutouts", np.zeros(24), False),
    ("cutouts", np.zeros((2, 3, 24, 24)), False),
    ("cutouts", np.zeros((24, 24), dtype=complex), False),
    ("cutouts", np.full((24, 24), "3"), False),
    ("cutouts", [np.zeros((24, 24)), np.zeros(5)], False),
    ("cutouts", [np.zeros((24, 24)), "three"], False),
    ("cutouts", [np.zeros((24, 24)), None], False),
    ("cutouts", {"a": 3}, False),
    ("cutouts", [np.ones((24, 24)) * u.Jy, np.ones((24, 24)) * u.m], False),
    ("cutouts", object(), False),
    ("psf", "psf.fits", False),
    ("psf", np.zeros((21, 21)), False),
    ("psf", -PSF, False),
    ("psf", np.full((21, 21), np.nan), False),
    ("psf", np.zeros((2, 21, 21)), False),
    ("psf", PSF[0], False),
    ("psf", [PSF, PSF], False),
    ("psf", [], False),
    ("psf", np.full((21, 21), "a"), False),
    ("psf", 3.0, False),
    ("psf", lambda x: x, False),
    ("error", "5", False),
    ("error", -1.0, False),
    ("error", 0.0, False),
    ("error", np.nan, False),
    ("error", [1.0, 2.0], False),
    ("error", np.ones((5, 5)), False),
    ("error", np.ones((3, 24, 25)), False),
    ("error", [1.0, "two", 3.0], False),
    ("error", 5.0 * u.Jy, False),
    ("error", 5.0, True),
    ("error", 5.0 * u.m, True),
    ("error", 1j, False),
    ("mask", np.zeros((3, 24, 25), bool), False),
    ("mask", "none", False),
    ("mask", np.zeros(SHAPE), False),
    ("mask", True, False),
    ("mask", [np.zeros(SHAPE, bool)] * 2, False),
    ("gain", "2", False),
    ("gain", -2.0, False),
    ("gain", 0.0, False),
    ("gain", np.nan, False),
    ("gain", [1.0, 2.0], False),
    ("gain", 2.0 * u.m, False),
    ("pixel_scale", "0.2", False),
    ("pixel_scale", -0.2, False),
    ("pixel_scale", 0.2 * u.s, False),
    ("pixel_scale", [0.2, 0.2], False),
    ("pixel_scale", np.inf, False),
    ("wcs", "TAN", False),
    ("wcs", [None, None], False),
    ("wcs", 3, False),
    ("psf_oversampling", 0, False),
    ("psf_oversampling", 1.5, False),
    ("psf_oversampling", "3", False),
    ("psf_oversampling", None, False),
    ("psf_oversampling", 10**9, False),
    ("psf_flux", 0.0, False),
    ("psf_flux", "most", False),
    ("psf_flux", [0.9, 0.9], False),
    ("positions", [1.0, 2.0], False),
    ("positions", "centre", False),
    ("positions", np.zeros((3, 3)), False),
    ("positions", [["a", "b"]] * 3, False),
    ("ids", [1, 2], False),
    ("ids", np.zeros((3, 2)), False),
    ("zero_point", "AB", False),
    ("zero_point", [25.0, 25.0], False),
    ("zero_point", np.nan, False),
    ("init_params", {"n": [2.0, 2.0]}, False),
    ("init_params", {"n": ["a", "b", "c"]}, False),
    ("init_params", 5, False),
    ("init_params", "start", False),
    ("init_params", {"r_eff": [1.0] * 3 * u.s}, False),
    ("init_params", {"r_eff": [1.0] * 3 * u.arcsec}, False),
    ("init_params", {"flux": [1.0] * 3 * u.Jy}, False),
    ("init_params", Table({"n_fit": [[1.0, 2.0]] * 3}), False),
    ("init_params", {"n": [1j, 1j, 1j]}, False),
]


def check_arguments(rng, number, tmp_path, capsys):
    name, value, with_unit = WRONG[number % len(WRONG)]
    images = np.array([Row(rng, SHAPE, "f4").image for _ in range(N_ROWS)])
    images = images * u.Jy if with_unit else images
    options = {"psf": PSF, "error": SIGMA * u.Jy if with_unit else SIGMA}
    if rng.random() < 0.5 and name != "cutouts":
        options["gain"] = 3.0
    if rng.random() < 0.5 and name != "cutouts":
        images = list(images)
    if name == "cutouts":
        images = value
    else:
        options[name] = value
    with no_hang(), pytest.raises((ValueError, TypeError)) as caught:
        LSQSersicFitter().fit(images, **options)
    message = str(caught.value)
    assert name in message, message
    assert len(message) < 400


# Files


def _truncated(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(0, len(data))])


def _flipped(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 30)):
        data[rng.integers(len(data))] = rng.integers(256)
    path.write_bytes(bytes(data))


def _flipped_header(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 6)):
        data[2880 + rng.integers(2880)] = rng.integers(32, 127)
    path.write_bytes(bytes(data))


def _replaced(text):
    def change(path, rng):
        path.write_bytes(text)

    return change


def _table(**columns):
    """A cutout table with other columns."""

    def change(path, rng):
        with fits.open(path) as hdus:
            table, psf = Table(hdus[1].data), hdus["PSF"].data.copy()
        for name, value in columns.items():
            if value is None:
                table.remove_column(name)
            else:
                table[name] = value
        hdus = [fits.PrimaryHDU(), fits.table_to_hdu(table), fits.ImageHDU(psf, name="PSF")]
        fits.HDUList(hdus).writeto(path, overwrite=True)

    return change


def _psf(image):
    def change(path, rng):
        with fits.open(path, mode="update") as hdus:
            hdus["PSF"].data = image

    return change


def _no_rows(path, rng):
    with fits.open(path) as hdus:
        table, psf = Table(hdus[1].data)[:0], hdus["PSF"].data.copy()
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(table), fits.ImageHDU(psf, name="PSF")]
    fits.HDUList(hdus).writeto(path, overwrite=True)


def _header(**keywords):
    def change(path, rng):
        with fits.open(path, mode="update") as hdus:
            hdus[1].header.update(keywords)

    return change


N_FILE = 5
SOUND = stamps(N_FILE)
NAN_ROW = np.where(np.arange(N_FILE)[:, None, None] == 2, np.nan, SOUND)
FILES = {
    "truncated": _truncated,
    "flipped": _flipped,
    "flipped header": _flipped_header,
    "empty": _replaced(b""),
    "text": _replaced(b"x,y\n1,2\n"),
    "bytes": _replaced(bytes(range(256)) * 20),
    "magic only": _replaced(b"SIMPLE  =                    T"),
    "no rows": _no_rows,
    "cutouts as text": _table(cutout=["a", "b", "c", "d", "e"]),
    "cutouts of one pixel": _table(cutout=np.ones((N_FILE, 1, 1))),
    "cutouts of no pixel": _table(cutout=np.ones((N_FILE, 0))),
    "cutouts as numbers": _table(cutout=np.ones(N_FILE)),
    "cutouts as vectors": _table(cutout=np.ones((N_FILE, 23))),
    "cutouts in four axes": _table(cutout=np.ones((N_FILE, 2, 3, 4))),
    "complex cutouts": _table(cutout=SOUND.astype(complex)),
    "no cutouts": _table(cutout=None, number=np.arange(N_FILE)),
    "a row of nan": _table(cutout=NAN_ROW),
    "text as error": _table(error=["a", "b", "c", "d", "e"]),
    "numbers as text as error": _table(error=["1", "1", "1", "1", "1"]),
    "error of another shape": _table(error=np.ones((N_FILE, 23, 24))),
    "negative error": _table(error=-np.ones(N_FILE)),
    "nan error": _table(error=np.full(N_FILE, np.nan)),
    "mask of another shape": _table(mask=np.ones((N_FILE, 23, 24), bool)),
    "text as mask": _table(mask=["a", "b", "c", "d", "e"]),
    "all masked": _table(mask=np.ones((N_FILE, 24, 24), bool)),
    "zero psf": _psf(np.zeros((25, 25), "f4")),
    "nan psf": _psf(np.full((25, 25), np.nan, "f4")),
    "psf of one axis": _psf(np.ones(25, "f4")),
    "psf of four axes": _psf(np.ones((2, 2, 5, 5), "f4")),
    "wrong number of psfs": _table(psf=np.ones((N_FILE, 3))),
    "huge cutouts": _table(cutout=np.full((N_FILE, 24, 24), 1e300)),
    "gain as text": _header(GAIN="high"),
    "negative gain": _header(GAIN=-3.0),
    "scale as text": _header(PIXSCALE="fine"),
    "negative scale": _header(PIXSCALE=-0.2),
    "wrong unit": _header(TUNIT1="parsnip"),
    "another unit": _header(TUNIT1="m"),
    "wrong dimensions": _header(TDIM1="(7,9)"),
    "too many rows": _header(NAXIS2=1000),
    "wrong width": _header(NAXIS1=7),
    "wrong format": _header(TFORM1="999999999E"),
}
ROWS_THAT_STAY = {"a row of nan": [0, 1, 3, 4], "another unit": range(N_FILE)}


def check_file(rng, number, tmp_path, capsys):
    path, sound = tmp_path / "catalogue.fits", tmp_path / "sound.fits"
    name = list(FILES)[number % len(FILES)]
    for each in (path, sound):
        cutout_table(each, {"id": np.arange(10, 10 + N_FILE)}, count=N_FILE)
    FILES[name](path, rng)
    with no_hang():
        cutouts, message = _read(path)
        if cutouts is None:
            assert message.startswith(f"{path}: "), message
            assert len(message) < 600
        else:
            table = LSQSersicFitter().fit(cutouts)
            assert len(table) == len(cutouts)
        if name in ROWS_THAT_STAY:
            rows = list(ROWS_THAT_STAY[name])
            expected = LSQSersicFitter().fit(read_cutouts(sound)[rows])
            assert_rows_agree(table[rows], expected, STOPPING)
        if rng.random() < 0.3:
            check_command(path, capsys, readable=cutouts is not None)


def _read(path):
    """(Cutouts of a file or None, message if it cannot be read)."""
    try:
        return read_cutouts(path), ""
    except (ValueError, TypeError) as err:
        return None, str(err)


def check_command(path, capsys, *, readable):
    """The command measures what can be read, and says in one line why it cannot read the rest."""
    with pytest.raises(SystemExit) as done:
        main([str(path), "--no-progress", "--output", str(path.with_name("result.fits"))])
    said = capsys.readouterr().err.strip().splitlines()
    assert done.value.code == (0 if readable else 2)
    if not readable:
        assert [line for line in said if not line.startswith("galmeasure: warning:")] == said[-1:]
        assert said[-1].startswith("galmeasure: error:")
        assert {each.name for each in path.parent.iterdir()} == {"catalogue.fits", "sound.fits"}


@pytest.mark.parametrize("seed", SEEDS)
def test_broken_input(seed, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    kinds = (check_rows, check_rows, check_rows, check_arguments, check_file)
    number, kind = divmod(seed, len(kinds))
    kinds[kind](rng, number, tmp_path, capsys)


def test_good_rows_are_measured():
    """The rows that must not change are measurements: they would not change either if all of them failed."""
    rng = np.random.default_rng(0)
    images, options = arguments([Row(rng, SHAPE, "f8") for _ in range(5)], set(), {"error": "one"})
    table = LSQSersicFitter().fit(images, **options)
    assert not (table["flags"] & (Flag.FAILED | Flag.NOT_CONVERGED)).any()
    assert (table["snr"] > 15).all()
