"""Odd environments: no home, a plain locale, few open files. The table is the same, and nothing else is said."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _catalogs import cutout_table

RUN = """
import resource, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from galmeasure.cli import main
main()
"""
ARGUMENTS = ["cat.fits", "--method", "lsq", "--batch-size", "2", "--quiet"]


def run(folder, output, *, limit=0, **environment):
    """Run of the command with a limit of open files, and changes of the environment; None removes a variable."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SOURCE_DATE_EPOCH": "1000000000", **environment}
    env = {name: value for name, value in env.items() if value is not None}
    command = [sys.executable, "-c", RUN, str(limit), *ARGUMENTS, "-o", output]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_the_table_is_the_same_everywhere(tmp_path):
    cutout_table(tmp_path / "cat.fits", {"error": np.ones(5)}, count=5)
    odd = {
        "plain.fits": {},
        "few_files.fits": {"limit": 12},
        "no_home.fits": {"HOME": None, "USER": None, "LOGNAME": None, "LANG": "C", "LC_ALL": "C"},
        "missing_home.fits": {"HOME": str(tmp_path / "nowhere"), "XDG_CACHE_HOME": None, "OMP_NUM_THREADS": "7"},
    }
    for output, options in odd.items():
        done = run(tmp_path, output, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), output
    tables = {output: Path(tmp_path, output).read_bytes() for output in odd}
    assert all(table == tables["plain.fits"] for table in tables.values())
    assert not (tmp_path / "nowhere").exists()
