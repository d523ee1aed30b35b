"""Arguments that are an array, or a list with one entry per cutout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from galmeasure.utils.units import as_array

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["boolean_mask", "is_numbers", "split_stack"]


def is_numbers(item: object) -> bool:
    """Test if a list item is a number or a list of numbers, as in one cutout written as nested lists."""
    if np.isscalar(item) and not hasattr(item, "unit"):
        return True
    return isinstance(item, list | tuple) and len(item) > 0 and all(np.isscalar(entry) for entry in item)


def boolean_mask(name: str, mask: object, shape: tuple[int, ...]) -> npt.NDArray | None:
    """Broadcast a mask (True = bad) to a shape.

    Parameters
    ----------
    name : str
        Name that messages give to the mask.
    mask : array_like of bool or int, or None
        Mask; non-zero integers are bad.
    shape : tuple of int
        Shape of the cutouts.

    Returns
    -------
    ndarray or None
        View of that shape; None if there is no mask.

    Raises
    ------
    TypeError, ValueError
        If the mask has another kind or shape.
    """
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
    """Split an array into the planes that belong to a list of cutouts.

    Parameters
    ----------
    name : str
        Name that messages give to the array.
    array : ndarray
        One plane for all cutouts, or a stack with one per cutout.
    shapes : ndarray of int, shape (N, 2)
        ny, nx of the cutouts.
    check : callable
        Function of name, plane and shape that returns the checked plane.

    Returns
    -------
    list of ndarray
        One plane per cutout.

    Raises
    ------
    ValueError
        If there is another number of planes.
    """
    if array.ndim == 2:
        return [check(name, array, tuple(shape)) for shape in shapes]
    if array.ndim != 3 or len(array) != len(shapes):
        msg = (
            f"{name} must be a list with one 2-D array per cutout ({len(shapes)}), not an array of shape {array.shape}"
        )
        raise ValueError(msg)
    return [check(f"{name}[{i}]", plane, tuple(shapes[i])) for i, plane in enumerate(array)]
