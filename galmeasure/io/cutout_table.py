"""Cutout tables: FITS binary tables with one stamp per row, SExtractor's VIGNET catalogues included."""

import math
from collections.abc import Sequence

import astropy.units as u
import numpy as np
import numpy.typing as npt
from astropy.io import fits

from galmeasure.exceptions import CatalogError
from galmeasure.io.fits_files import OptionError, is_chosen, is_table, table_names
from galmeasure.io.headers import celestial_wcs, parse_unit, psf_oversampling, wcs_pixel_scale
from galmeasure.io.mask_bits import find_mask_bits
from galmeasure.io.names import COLUMN_NAMES, PIXEL_NAMES, find_pair, spelling_of
from galmeasure.io.noise_maps import in_unit, is_inverse_variance, variance_to_error, weight_to_error
from galmeasure.io.psf import PSFInput, psf_of_extensions
from galmeasure.io.source import SENTINEL, CatalogSource, segmentation_mask
from galmeasure.io.table_rows import TableRows

__all__ = ["CutoutTableSource", "find_cutout_table"]


_NO_STAMP = (3, 3)
"""Shape of the blank stamp of a row that has no pixels, or not as many as its shape says."""


def find_cutout_table(hdus: fits.HDUList, extension: str | None = None) -> fits.BinTableHDU | None:
    """First table of a file with a cutout column, or None; see `COLUMN_NAMES` for the names."""
    for number, hdu in enumerate(hdus):
        if is_chosen(extension, number, hdu) and is_table(hdu) and spelling_of(table_names(hdu), "cutout"):
            return hdu
    return None


class CutoutTableSource(CatalogSource):
    """Cutout table, read from its file by ranges of rows.

    Parameters
    ----------
    path : Path
        File that is to be read.
    options : ReadOptions
        Options; `error`, `weight`, `mask` and `segmentation` name columns, `error` may be a number.
    hdus : astropy.io.fits.HDUList
        The open file; used during the call only.
    extension : str, optional
        Name or number of the table's extension.
    rows : ParquetRows, optional
        Rows of files that are not FITS; the first of the HDUs then has their keywords.
    """

    def __init__(self, path, options, hdus, extension=None, rows=None):
        super().__init__(path, options, kind="cutout table")
        if options.size is not None:
            msg = "size is for source lists and images; the stamps of a cutout table have their shape"
            raise OptionError(msg)
        hdu = find_cutout_table(hdus, extension) if rows is None else hdus[0]
        self._rows = TableRows(path, hdu) if rows is None else rows
        self._cutout = spelling_of(self._rows.names, "cutout")
        self._roles = self._find_roles()
        for role, name in (("cutout", self._cutout), *self._roles.items()):
            if role != "id" and not self._rows.is_number(name):
                msg = f"{path}: the column {name} must hold numbers, not {self._rows.dtype_name(name)}"
                raise CatalogError(msg)
        self._pixels = find_pair(self._rows.names, PIXEL_NAMES)
        self._check_shapes()
        ldac = _ldac_header(hdus)
        headers = [hdu.header, hdus[0].header, *([ldac] if ldac is not None else [])]
        self._wcs = celestial_wcs(ldac) if ldac is not None and self._pixels else None
        self._set_units()
        self._calibrate(headers, path, wcs_pixel_scale(self._wcs))
        self._bits = find_mask_bits(options.mask_bits, headers, path)
        options.check_used(mask="mask" in self._roles, weight="weight" in self._roles)
        if "mask" in self._roles and self._bits.note:
            self.notes.append(self._bits.note)
        file_psf = self._find_psf(hdus, hdu)
        if file_psf is None and options.psf is None and self._rows.n_whole < len(self):
            msg = f"{path}: truncated FITS file, {self._rows.n_whole} of the {len(self)} rows are whole and no PSF is "
            msg += f"there: give one with --psf (psf=), and choose these rows with --rows 0:{self._rows.n_whole}"
            raise CatalogError(msg)
        self._set_psf(file_psf)
        if self.psf.varies and not self._pixels:
            msg = f"{path}: psf: a PSF that varies over the image needs positions, columns x and y"
            raise CatalogError(msg)

    def __len__(self):
        return len(self._rows)

    @property
    def is_read_in_parts(self) -> bool:
        """True unless the file is compressed."""
        return not self._rows.is_packed

    def check_unchanged(self) -> None:
        """Raise if the file has changed since it was opened."""
        self._rows.check_unchanged()

    @property
    def n_whole(self) -> int:
        """Number of rows, from the first one on, that are whole in the file."""
        return self._rows.n_whole

    def _find_roles(self):
        names, roles = self._rows.names, {}
        self._check_meaning()
        for role in ("error", "weight", "mask", "segmentation"):
            option = getattr(self.options, role)
            if option is None:
                roles[role] = spelling_of(names, role)
            elif not _is_number(option):
                roles[role] = next((n for n in names if n.lower() == str(option).lower()), None)
                if roles[role] is None:
                    kinds = "a number or a column" if role == "error" else "a column"
                    msg = f"{role} must be {kinds} of the cutout table, which has no {option!r}"
                    raise CatalogError(msg)
        if self.options.error is not None:
            roles["weight"] = None
        elif self.options.weight is not None or roles.get("error"):
            roles["error" if self.options.weight is not None else "weight"] = None
        roles |= self._variance_role(roles)
        for role in ("psf", "gain", "pixel_scale", "zero_point"):
            roles[role] = spelling_of(names, role) if getattr(self.options, role) is None else None
        for role in ("id", "ny", "nx"):
            roles[role] = spelling_of(names, role)
        return {role: name for role, name in roles.items() if name is not None}

    def _check_meaning(self):
        """Raise if the name of a column says that it holds something else than the option does."""
        for option, contrary, what in (("error", "weight", "inverse variances"), ("weight", "error", "errors")):
            name = str(getattr(self.options, option)).lower()
            if name in COLUMN_NAMES[contrary] and not (option == "weight" and self.options.weight_type):
                msg = f"{option}: the column {name} holds {what} by its name: give it with --{contrary} ({contrary}=)"
                raise OptionError(msg)
            if option == "weight" and name in COLUMN_NAMES["variance"]:
                msg = f"weight: the column {name} holds variances by its name: give it with --error (error=)"
                raise OptionError(msg)

    def _variance_role(self, roles):
        """Roles in which a column of variances takes the place of the errors, where it is asked for or alone there."""
        name = roles.get("error")
        if name is not None and name.lower() in COLUMN_NAMES["variance"]:
            return {"error": None, "variance": name}
        name = spelling_of(self._rows.names, "variance")
        is_alone = self.options.error is None and not roles.get("error") and not roles.get("weight")
        return {"variance": name} if is_alone and name is not None and self._rows.shape(name) != () else {}

    def _check_shapes(self):
        for role in ("cutout", "error", "variance", "weight", "mask", "segmentation", "psf"):
            name = self._cutout if role == "cutout" else self._roles.get(role)
            shape = () if name is None else self._rows.shape(name)
            if shape is None or (role in ("error", "variance", "weight") and shape == ()) or name is None:
                continue
            self._shape_2d(name)

    def _shape_2d(self, name):
        """Shape of the stamps in a column; a flat one is square."""
        shape = self._rows.shape(name)
        if len(shape) > 2:
            shape = tuple(n for n in shape if n > 1)
        side = math.isqrt(math.prod(shape))
        if len(shape) == 1 and side and side * side == shape[0]:
            return side, side
        if len(shape) == 2 and 0 not in shape:
            return shape
        msg = f"{self.path}: the column {name} must hold one 2-D stamp per row (TDIM), not {shape or 'one value'}"
        raise CatalogError(msg)

    def _set_units(self):
        self._set_unit(self._rows.unit(self._cutout), f"the column {self._cutout}")
        self._error_factor = 1.0
        self._understand_weight()
        if "variance" in self._roles:
            self.notes.append(f"variance ({self._roles['variance']})")
        name = self._roles.get("error")
        unit = parse_unit(self._rows.unit(name)) if name else None
        if unit is None:
            return
        try:
            self._error_factor = unit.to(self.unit) if self.unit is not None else None
        except u.UnitConversionError:
            self._error_factor = None
        if self._error_factor is None:
            msg = f"{self.path}: the unit of {name}, {unit}, does not fit that of {self._cutout}, {self.unit}"
            raise CatalogError(msg)

    def _understand_weight(self):
        """Set whether the weight is an inverse variance: by the options, or its name or unit."""
        name, weight_type = self._roles.get("weight"), self.options.weight_type
        if name is None:
            return
        if weight_type is None and (self.options.weight is not None or name.lower() == "weight"):
            weight_type = "ivar"  # as the documentation of cutout tables says
            if not is_inverse_variance(name, {"BUNIT": self._rows.unit(name)}, self.unit, None):
                self._assumed_weight = f"column {name}"
        header = {"BUNIT": self._rows.unit(name)}
        self._weight_is_inverse_variance = is_inverse_variance(name, header, self.unit, weight_type)
        if self._weight_is_inverse_variance:
            self.notes.append(f"inverse variance ({name})")
            return
        meaning = f"is {weight_type}" if weight_type else "is not said to be inverse variance, see --weight-type"
        self.notes.append(f"error estimated from the noise ({name} {meaning})")

    def _find_psf(self, hdus, table):
        if "psf" in self._roles:
            return PSFInput(None, psf_oversampling(table.header, self.path))
        if self.options.psf is not None:
            return None
        return psf_of_extensions(hdus, self.path)

    def n_pixels(self, rows: np.ndarray) -> np.ndarray:
        """Pixels of the stamps of some rows."""
        if self._rows.shape(self._cutout) is not None:
            return np.full(len(rows), math.prod(self._rows.shape(self._cutout)))
        if {"ny", "nx"} <= self._roles.keys():
            sides = self._rows.read(rows, [self._roles["ny"], self._roles["nx"]])
            return np.prod([np.asarray(side, dtype=np.int64) for side in sides.values()], axis=0)
        return np.full(len(rows), 128 * 128)

    @property
    def column_names(self) -> list[str]:
        """Names of the input columns with one value per row."""
        return [name for name in self._rows.names if self._rows.shape(name) == ()]

    def columns(self, rows: npt.ArrayLike, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Input columns with one value per row."""
        return {name: _native(values) for name, values in self._rows.read(rows, names).items()}

    def _arguments(self, rows):
        names = {self._cutout, *self._roles.values(), *(self._pixels or ())[:2]}
        values = self._rows.read(rows, sorted(names))
        column = {role: values[name] for role, name in self._roles.items()}
        shapes = self._shapes(column, len(rows))
        data = self._stamps(values[self._cutout], self._cutout, shapes)
        error, bad = self._errors(column, shapes)
        masks = [bad, self._masks(column, shapes)]
        data, sentinel = _without_sentinels(data)
        arguments = {"cutouts": data, "error": error, "mask": _either(*masks, sentinel)}
        arguments["ids"] = _native(column["id"]) if "id" in column else rows + 1
        for role in ("gain", "pixel_scale", "zero_point"):
            if role in column:
                arguments[role] = _floats(column[role])
        if "psf" in column:
            arguments["psf"] = self._psfs(column["psf"])
        if self._pixels:
            sizes = np.array(shapes, dtype=float)
            arguments["positions"] = self._positions(values, sizes)
            arguments["wcs"] = self._wcs
        return arguments

    def _shapes(self, column, count):
        """(ny, nx) of each row."""
        largest = None if self._rows.shape(self._cutout) is None else self._shape_2d(self._cutout)
        if "ny" not in column or "nx" not in column:
            return [largest] * count
        shapes = [(int(ny), int(nx)) for ny, nx in zip(column["ny"], column["nx"], strict=True)]
        for ny, nx in shapes if largest is not None else ():
            if not (1 <= ny <= largest[0] and 1 <= nx <= largest[1]):
                names = f"{self._roles['ny']} and {self._roles['nx']}"
                msg = f"{self.path}: {names} must lie between 1 and the stamp's {largest}, not {(ny, nx)}"
                raise CatalogError(msg)
        return shapes

    def _stamps(self, values, name, shapes):
        """A column as an array (N, ny, nx), or a list of 2-D arrays where shapes vary; what is beyond is padding."""
        if not isinstance(values, list):
            stamps = values.reshape(len(values), *self._shape_2d(name))
            padded = self._rows.shape(self._cutout) is not None and stamps.shape[1:] == self._shape_2d(self._cutout)
            if not padded or {stamps.shape[1:]} == set(shapes):
                return stamps
            return [stamp[:ny, :nx] for stamp, (ny, nx) in zip(stamps, shapes, strict=True)]
        stamps = []
        for i, value in enumerate(values):
            side = math.isqrt(value.size)
            shape = shapes[i] or (side, side)
            if math.prod(shape) != value.size or value.size == 0:  # this row cannot be measured, the others can
                shape = shapes[i] if shapes[i] and name != self._cutout else _NO_STAMP
                value = np.full(shape, np.nan)
            shapes[i] = shape
            stamps.append(value.reshape(shape))
        return stamps

    def _errors(self, column, shapes):
        if _is_number(self.options.error):
            return float(self.options.error), None
        if "error" in column:
            return self._scaled_error(column["error"], shapes), None
        if "variance" in column:
            return self._error_of_variance(column["variance"], shapes), None
        if "weight" not in column:
            return None, None
        if not self._weight_is_inverse_variance:
            return None, self._without_weight(column["weight"], shapes)
        if not isinstance(column["weight"], list) and column["weight"].ndim == 1:
            error, bad = weight_to_error(_floats(column["weight"]))
            return error, [np.full(shape, b) for shape, b in zip(shapes, bad, strict=True)] if bad.any() else None
        stamps = self._stamps(column["weight"], self._roles["weight"], shapes)
        if not isinstance(stamps, list):
            return weight_to_error(stamps)
        pairs = [weight_to_error(stamp) for stamp in stamps]
        return [error for error, _ in pairs], [bad for _, bad in pairs]

    def _error_of_variance(self, values, shapes):
        """Errors of variances, in the unit of the cutouts."""
        name = self._roles["variance"]
        is_number = not isinstance(values, list) and values.ndim == 1
        stamps = _floats(values) if is_number else self._stamps(values, name, shapes)

        def error(stamp):
            where = f"{self.path}: the column {name}"
            return variance_to_error(in_unit("variance", np.asarray(stamp), self._rows.unit(name), self.unit, where))

        return [error(stamp) for stamp in stamps] if isinstance(stamps, list) else error(stamps)

    def _without_weight(self, values, shapes):
        """Mask of the pixels without weight, for weights that only say which pixels are good."""
        if not isinstance(values, list) and values.ndim == 1:
            return [np.full(shape, bad) for shape, bad in zip(shapes, weight_to_error(values)[1], strict=True)]
        stamps = self._stamps(values, self._roles["weight"], shapes)
        return [weight_to_error(s)[1] for s in stamps] if isinstance(stamps, list) else weight_to_error(stamps)[1]

    def _scaled_error(self, values, shapes):
        if not isinstance(values, list) and values.ndim == 1:
            return _floats(values) * self._error_factor
        stamps = self._stamps(values, self._roles["error"], shapes)
        if self._error_factor == 1.0:
            return stamps
        return [s * self._error_factor for s in stamps] if isinstance(stamps, list) else stamps * self._error_factor

    def _masks(self, column, shapes):
        mask = None
        if "mask" in column:
            stamps = self._stamps(column["mask"], self._roles["mask"], shapes)
            mask = [self._bits.bad(s) for s in stamps] if isinstance(stamps, list) else self._bits.bad(stamps)
        if "segmentation" not in column:
            return mask
        stamps = self._stamps(column["segmentation"], self._roles["segmentation"], shapes)
        neighbours = [segmentation_mask(s, (s.shape[1] - 1) / 2, (s.shape[0] - 1) / 2) for s in stamps]
        return _either(mask, neighbours)

    def _psfs(self, values):
        if isinstance(values, list):
            return self._stamps(values, self._roles["psf"], [None] * len(values))
        return values.reshape(len(values), *self._shape_2d(self._roles["psf"]))

    def _positions(self, values, sizes):
        """Stamp centres in the parent image: source positions moved to the grid of whole pixels."""
        x_name, y_name, first = self._pixels
        positions = np.stack([_floats(values[name]) - first for name in (x_name, y_name)], axis=1)
        positions = np.where(np.abs(positions) < 1e9, positions, np.nan)
        sizes = sizes[:, ::-1]
        if self._cutout.lower() == "vignet":
            origin = np.floor(positions + 0.5) - sizes // 2
        else:
            origin = np.ceil(positions - sizes / 2.0)
        return origin + (sizes - 1.0) / 2.0


def _ldac_header(hdus):
    """Header of the image that SExtractor keeps in a table of its FITS_LDAC catalogues, or None."""
    for hdu in hdus:
        if hdu.name == "LDAC_IMHEAD" and isinstance(hdu, fits.BinTableHDU) and hdu.header["NAXIS2"]:
            cards = np.atleast_1d(hdu.data[0][0])
            text = "".join(str(card).ljust(80) for card in cards)
            return fits.Header.fromstring(text)
    return None


def _is_number(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _native(values):
    """Values in the byte order of the machine, masked where they are."""
    values = np.asanyarray(values)
    return values.astype(values.dtype.newbyteorder("=")) if values.dtype.kind in "iufc" else values


def _floats(values):
    """Numbers of a column with one value per row, NaN where they are masked."""
    return np.ma.filled(np.ma.asarray(values).astype(float), np.nan)


def _without_sentinels(data):
    """Data with SExtractor's sentinels set to zero, and where they were; None where there are none."""
    if isinstance(data, list):
        pairs = [_without_sentinels(stamp) for stamp in data]
        any_bad = any(bad is not None for _, bad in pairs)
        masks = [np.zeros(s.shape, bool) if bad is None else bad for s, bad in pairs]
        return [s for s, _ in pairs], masks if any_bad else None
    if data.dtype.kind != "f":
        return data, None
    bad = (data <= SENTINEL) & np.isfinite(data)
    return (np.where(bad, data.dtype.type(0), data), bad) if bad.any() else (data, None)


def _either(*masks):
    """Pixels that are bad in any of the masks (arrays, lists of arrays or None)."""
    masks = [mask for mask in masks if mask is not None]
    if not masks:
        return None
    if all(isinstance(mask, np.ndarray) for mask in masks):
        return np.logical_or.reduce(masks)
    return [np.logical_or.reduce(stamps) for stamps in zip(*masks, strict=True)]
