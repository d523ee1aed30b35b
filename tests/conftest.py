"""Configuration of the tests."""

import os
import signal
from pathlib import Path

import pytest

try:
    from pytest_astropy_header.display import PYTEST_HEADER_MODULES, TESTED_VERSIONS
except ImportError:
    PYTEST_HEADER_MODULES, TESTED_VERSIONS = {}, {}

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    import galmeasure

    PYTEST_HEADER_MODULES.clear()
    for name in ("numpy", "scipy", "astropy", "photutils", "torch", "galsim"):
        PYTEST_HEADER_MODULES[name] = name
    TESTED_VERSIONS["galmeasure"] = galmeasure.__version__


def pytest_collection_finish():
    """Run where the documented examples find the files that they read, wherever this was started."""
    os.chdir(ROOT)


@pytest.fixture(autouse=True)
def keyboard_interrupt():
    """Ctrl-C interrupts, and interrupts what a test starts, even if this run was started with the signal ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def pytest_collection_modifyitems(items):
    """Skip the tests marked ``gpu`` where there is no CUDA device."""
    marked = [item for item in items if "gpu" in item.keywords]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def both_ways(monkeypatch):
    """Results of a function with compiled loops, and with the operations of torch."""

    from galmeasure.utils.compiled import VARIABLE, is_compiled

    def call(function):
        monkeypatch.setenv(VARIABLE, "1")
        assert is_compiled()
        compiled = function()
        monkeypatch.setenv(VARIABLE, "0")
        assert not is_compiled()
        return compiled, function()

    return call
