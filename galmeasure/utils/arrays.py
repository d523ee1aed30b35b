"""Small helpers for what comes as an array or as a list with one entry per cutout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.utils.units import as_array

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["boolean_mask", "is_numbers", "split_stack"]


def is_numbers(item: object) -> bool:
    """Whether a list item is a number or a list of numbers, i.e. part of one cutout written as nested lists."""
    if np.isscalar(item) and not hasattr(item, "unit"):
        return True
    return isinstance(item, list | tuple) and len(item) > 0 and all(np.isscalar(entry) for entry in item)


def boolean_mask(name: str, mask: object, shape: tuple[int, ...]) -> npt.NDArray | None:
    """A mask as a boolean array of ``shape`` (a view if it can be), True = bad; None stays None."""
    if mask is None or mask is np.ma.nomask:
        return None
    array = as_array(name, mask)
    if array.dtype.kind not in "biu":
        msg = f"mask must be boolean (or integer, non-zero = bad): {name} is of type {array.dtype}"
        raise TypeError(msg)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        msg = f"{name} must have the shape of the cutouts {shape}, not {array.shape}"
        raise ValueError(msg) from None


def split_stack(
    name: str,
    array: np.ndarray,
    shapes: npt.NDArray[np.int64],
    check: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray],
) -> list[np.ndarray]:
    """List with the planes of ``array`` that belong to a list of cutouts."""
    if array.ndim == 2:
        return [check(name, array, tuple(shape)) for shape in shapes]
    if array.ndim != 3 or len(array) != len(shapes):
        msg = (
            f"{name} must be a list with one 2-D array per cutout ({len(shapes)}), not an array of shape {array.shape}"
        )
        raise ValueError(msg)
    return [check(f"{name}[{i}]", plane, tuple(shapes[i])) for i, plane in enumerate(array)]
