"""The format ``galmeasure`` of astropy's tables, registered when somebody imports these."""

import importlib.util
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder

__all__ = ["register_format"]

_TABLES = "astropy.table"
_MODULE = "galmeasure.io.results"


def register_format() -> None:
    """Make ``QTable.read(path, format="galmeasure")`` and ``write`` work.

    That is now, or as soon as astropy's tables are imported: importing this package must not import them.
    """
    if _TABLES in sys.modules:
        _register(sys.modules[_TABLES])
    else:
        sys.meta_path.insert(0, _AfterTables())


def _register(module):
    """Register the reader and the writer, which are imported when they are first used."""
    from astropy.io import registry

    def read(*args, **options):
        return import_module(_MODULE).read_table(*args, **options)

    def write(*args, **options):
        return import_module(_MODULE).write_result(*args, **options)

    registry.register_reader("galmeasure", module.Table, read, force=True)
    registry.register_writer("galmeasure", module.Table, write, force=True)


class _AfterTables(MetaPathFinder):
    """Registers the format once astropy's tables have been imported by anybody."""

    def find_spec(self, fullname, path=None, target=None):
        """Specification of astropy's tables as others find it, with the registration behind it."""
        if fullname != _TABLES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register
        return spec
