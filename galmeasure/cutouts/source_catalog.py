"""Stamps of the sources of a photutils SourceCatalog, which holds its image, segments, errors and mask."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["is_source_catalog", "is_table", "read_source_catalog"]

_SMALLEST, _LARGEST, _STEP = 32, 512, 16


def is_source_catalog(item: object) -> bool:
    """Test if an object is a photutils SourceCatalog."""
    return type(item).__name__ == "SourceCatalog" and hasattr(item, "bbox_xmin")


def is_table(item: object) -> bool:
    """Test if an object is a table of astropy, pandas or arrow, which holds no pixels to measure."""
    return hasattr(item, "colnames") or hasattr(item, "iloc") or hasattr(item, "column_names")


def read_source_catalog(catalog: object) -> dict[str, object]:
    """Return arguments of `Cutouts` for the sources of a catalogue.

    Parameters
    ----------
    catalog : photutils.segmentation.SourceCatalog
        Catalogue made from a background-subtracted image.

    Returns
    -------
    dict
        ``cutouts``, ``mask``, ``ids`` (the labels), ``positions`` and, where the catalogue has them, ``error`` and
        ``wcs``. Stamps are twice as large as the segments, at least 32 pixels, and end where the image ends; other
        segments are masked.

    Raises
    ------
    ValueError
        If the catalogue has lost its image or its segments; the message says which.
    """
    data, segments = getattr(catalog, "_data", None), getattr(catalog, "_segmentation_image", None)
    segments = getattr(catalog, "_segment_img", None) if segments is None else segments
    segments = getattr(segments, "data", segments)
    for name, value in (("image (data)", data), ("segmentation image", segments)):
        if value is None:
            msg = f"cutouts: the SourceCatalog has no {name}; give one that was made from the image, or stamps"
            raise ValueError(msg)
    unit = getattr(catalog, "_data_unit", None)
    data = data << unit if unit is not None and getattr(data, "unit", None) is None else data
    error, mask = getattr(catalog, "_error", None), getattr(catalog, "_mask", None)
    error = error << unit if unit is not None and error is not None and getattr(error, "unit", None) is None else error
    labels = np.atleast_1d(catalog.labels)
    ends = [np.atleast_1d(getattr(catalog, f"bbox_{name}")) for name in ("xmin", "xmax", "ymin", "ymax")]
    arguments = {"cutouts": [], "mask": [], "error": [], "positions": []}
    for label, x_min, x_max, y_min, y_max in zip(labels, *ends, strict=True):
        rows, columns = _stamp(x_min, x_max, y_min, y_max, segments.shape)
        labels_in_stamp = segments[rows, columns]
        bad = (labels_in_stamp != 0) & (labels_in_stamp != label)
        arguments["mask"].append(bad if mask is None else bad | mask[rows, columns])
        arguments["cutouts"].append(data[rows, columns])
        arguments["error"].append(None if error is None else error[rows, columns])
        arguments["positions"].append((0.5 * (columns.start + columns.stop - 1), 0.5 * (rows.start + rows.stop - 1)))
    if error is None:
        del arguments["error"]
    return {**arguments, "ids": labels, "wcs": _sky(getattr(catalog, "wcs", None))}


def _stamp(x_min, x_max, y_min, y_max, shape):
    """Slices of the rows and columns of a stamp around a segment, within the image."""
    extent = max(x_max - x_min, y_max - y_min) + 1
    side = min(max(_SMALLEST, _STEP * math.ceil(2 * extent / _STEP)), _LARGEST)
    slices = []
    for low, high, size in ((y_min, y_max, shape[0]), (x_min, x_max, shape[1])):
        start = int(low + high + 1) // 2 - side // 2
        slices.append(slice(max(0, start), min(size, start + side)))
    return slices


def _sky(wcs):
    """WCS, if it is one of astropy's."""
    return wcs if hasattr(wcs, "has_celestial") else None
