"""Configuration of the tests."""

import pytest

try:
    from pytest_astropy_header.display import PYTEST_HEADER_MODULES, TESTED_VERSIONS
except ImportError:
    PYTEST_HEADER_MODULES, TESTED_VERSIONS = {}, {}


def pytest_configure(config):
    import galmeasure

    PYTEST_HEADER_MODULES.clear()
    for name in ("numpy", "scipy", "astropy", "photutils", "torch", "galsim"):
        PYTEST_HEADER_MODULES[name] = name
    TESTED_VERSIONS["galmeasure"] = galmeasure.__version__


def pytest_collection_modifyitems(items):
    """Skip the tests marked ``gpu`` where there is no CUDA device."""
    marked = [item for item in items if "gpu" in item.keywords]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
