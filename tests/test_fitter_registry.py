"""The registry of estimators: options, messages, and a third estimator that reaches the command line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from _catalogs import cutout_table
from astropy.table import Table

from galmeasure import LSQSersicFitter, NeuralSersicFitter
from galmeasure.fitters.registry import FITTERS, FitterSpec, fitter_options, get_fitter


def test_specs_make_fitters():
    spec = get_fitter("lsq").spec({"fit_background": True, "init": None, "prior": ""}, device="cpu", batch_size=None)
    assert spec == FitterSpec("galmeasure.fitters", "LSQSersicFitter", {"device": "cpu", "fit_background": True})
    assert spec.make() == LSQSersicFitter(fit_background=True)
    assert get_fitter("neural").spec({"refine": "none"}).make().refine is None
    assert get_fitter("neural").spec().make() == NeuralSersicFitter()


def test_a_fitter_may_start_another():
    """Options of the fitter that gives the starts are accepted, and reach it."""
    fitter = get_fitter("lsq").spec({"init": "neural", "weights": "study-v2"}, device="cpu").make()
    assert isinstance(fitter, LSQSersicFitter)
    assert isinstance(fitter.init, NeuralSersicFitter)
    assert fitter.init.weights == "study-v2"


def test_options_of_others_are_refused():
    with pytest.raises(ValueError, match="^weights is an option of --method neural, not of --method lsq$"):
        get_fitter("lsq").spec({"weights": "survey-v3"})
    with pytest.raises(ValueError, match="^fit-background is an option of --method lsq, not of --method neural$"):
        get_fitter("neural").spec({"fit_background": True})
    with pytest.raises(ValueError, match="^method must be one of neural, lsq, ensemble, baseline, not 'moments'$"):
        get_fitter("moments")


def test_options_are_arguments():
    """Every option is an argument of each class that has it, and each is offered once, with its owner's name."""
    for entry in FITTERS.values():
        accepted = entry.spec().make().__dataclass_fields__
        assert {option.name for option in entry.options} <= set(accepted)
    offered = list(fitter_options("measure"))
    assert len({option.name for option, _ in offered}) == len(offered)
    texts = {option.name: text for option, text in offered}
    assert texts["fit_background"].startswith("Least squares: ")
    assert texts["prior"].startswith("Prior: ")


THIRD = """
import sys
from galmeasure.fitters.registry import FITTERS, FitterOption, RegisteredFitter
option = FitterOption(name="fail", help="fail at this id.", choices=("never", "5"), values={"never": None})
FITTERS["sum"] = RegisteredFitter(
    name="sum", label="Sum", module="_fake_fitter", class_name="SumFitter", options=(option,), uses_device=False
)
from galmeasure.cli import main
main(sys.argv[1:])
"""


def test_a_third_fitter_reaches_the_command_line(tmp_path):
    cutout_table(tmp_path / "cat.fits", {"error": np.ones(7)})
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*args):
        command = [sys.executable, "-c", THIRD, *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    text = run("measure", "--help").stdout
    assert "[neural|lsq|ensemble|sum]" in text
    assert "Sum: fail at this id." in text
    done = run("cat.fits", "--method", "sum", "--fail", "never", "--n-jobs", "1")
    assert done.returncode == 0, done.stderr
    assert len(Table.read(tmp_path / "cat_galmeasure.fits")) == 7
    assert "fail is an option of --method sum" in run("cat.fits", "--fail", "5", "--overwrite").stderr
