"""Loops that numba compiles, where it is installed (extra ``fast``), in the place of operations of torch.

Compiled code is kept in files beside the package, or in the user's cache folder, so that it is compiled once; where no
folder can be written, it is compiled in each process. The environment variable ``GALMEASURE_COMPILED=0`` switches it
off. Results differ from those of torch by rounding.
"""

import importlib
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

__all__ = ["FAST_MATH", "VARIABLE", "compile_loop", "compiled_module", "is_compiled"]

VARIABLE = "GALMEASURE_COMPILED"
"""Environment variable that switches compiled loops off if it is 0."""

FAST_MATH = {"reassoc", "contract", "nsz"}
"""What the compiler may do: take sums in any order. Infinities and NaN keep their meaning."""

logger = logging.getLogger(__name__)


def is_compiled() -> bool:
    """Whether loops are compiled: numba is there, and not switched off."""
    return os.environ.get(VARIABLE, "1") != "0" and _has_numba()


@lru_cache(maxsize=1)
def _has_numba():
    return find_spec("numba") is not None


class _Tensor(Protocol):
    """What is asked of a tensor."""

    device: Any
    dtype: Any
    requires_grad: bool


def compiled_module(name: str, *tensors: _Tensor) -> ModuleType | None:
    """Import a module of compiled loops, if they can work on some tensors.

    Parameters
    ----------
    name : str
        Full name of the module, in which all loops are compiled when it is imported.
    *tensors : Tensor
        Arguments of the loops.

    Returns
    -------
    module or None
        None where the tensors are not in single precision in the memory of the processor, where one of them asks for
        gradients, or where loops are not compiled.
    """
    if not is_compiled() or not all(_can_be_read(tensor) for tensor in tensors):
        return None
    return _imported(name)


def _can_be_read(tensor):
    return tensor.device.type == "cpu" and not tensor.requires_grad and _is_single(tensor.dtype)


@lru_cache(maxsize=16)
def _is_single(dtype):
    return str(dtype) == "torch.float32"


@lru_cache(maxsize=16)
def _imported(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:  # a numba that does not go with this numpy
        logger.warning("loops are not compiled: %s", error)
        return None


def compile_loop(*signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function that numba compiles at once.

    Parameters
    ----------
    *signatures : str or numba signature
        Types of the arguments and of the result, once for each kind of arguments.

    Returns
    -------
    callable
        Decorator. Other threads run while the function that it returns does.
    """
    from numba import njit

    def decorate(function):
        options = {"nogil": True, "error_model": "numpy", "fastmath": FAST_MATH}
        try:
            return njit(list(signatures), cache=True, **options)(function)
        except (OSError, RuntimeError):  # no folder for the cache, or no room in it
            return njit(list(signatures), **options)(function)

    return decorate
