"""Names of a package that are imported when they are first asked for, so that importing the package stays light."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["function_of", "lazy_names"]


def lazy_names(
    package: str, exports: Mapping[str, str]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """Make a package give its public names on demand.

    Parameters
    ----------
    package : str
        Name of the package, its ``__name__``.
    exports : dict of str to str
        Module that holds each name: of the package, or a full name that begins with ``galmeasure.``.

    Returns
    -------
    names : list of str
        Public names, for the package's ``__all__``.
    get, names_now : callable
        Functions for its ``__getattr__`` and ``__dir__``.
    """
    names = sorted(exports)

    def get(name):
        if name not in exports:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        module = exports[name]
        module = module if module.startswith("galmeasure.") else f"{package}.{module}"
        value = getattr(import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    def names_now():
        return sorted({*vars(sys.modules[package]), *names})

    return names, get, names_now


def function_of(path: str) -> Callable[..., Any]:
    """Find a function of a room above, for a method that passes its work on to it.

    Parameters
    ----------
    path : str
        Name of the module, a colon and the name of the function.

    Returns
    -------
    callable
        Function, whose module is imported now and not before.
    """
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
