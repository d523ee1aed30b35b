"""Runs that were stopped go on and give the same table to the last byte, whatever stopped them."""

import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _catalogs import cutout_table
from _stopping_fitter import StoppingFitter
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from galmeasure.cli import main
from galmeasure.fitters.registry import FITTERS, FitterSpec
from galmeasure.io import ReadOptions, spool, writers
from galmeasure.workflows import fingerprint as fingerprints
from galmeasure.workflows import journal as journals
from galmeasure.workflows.fingerprint import file_digest, fingerprint
from galmeasure.workflows.journal import Journal, JournalError, journal_path, read_journal
from galmeasure.workflows.measure import MeasureSettings, measure_catalog

SUFFIXES = ("fits", "ecsv", "csv", "parquet", "votable")
N_ROWS = 20


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A catalogue of twenty rows in the current folder, measured by a fitter that can be stopped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 1)
    fitter = replace(FITTERS["lsq"], module="_stopping_fitter", class_name="StoppingFitter")
    monkeypatch.setitem(FITTERS, "lsq", fitter)
    reset()
    field = [f"F{row}" for row in range(N_ROWS)]
    cutout_table("cat.fits", {"error": np.ones(N_ROWS), "field": field}, count=N_ROWS, units={"cutout": "3.631 uJy"})
    return tmp_path


def reset(stop_at=None, exception=None):
    """Let the fitter stop at a chunk, counted from 1, or at none."""
    StoppingFitter.calls, StoppingFitter.stop_at = 0, stop_at
    StoppingFitter.exception = exception or KeyboardInterrupt()


def settings(output="o.fits", label="label", **options):
    spec = FitterSpec("_stopping_fitter", "StoppingFitter", {"label": label}, "stopping")
    return MeasureSettings(fitter=spec, output=output, **{"batch_size": 3, **options})


def stopped(stop_at, output="o.fits", exception=None, **options):
    """Stop a run at a chunk; gives the exception."""
    reset(stop_at, exception)
    with pytest.raises(type(StoppingFitter.exception)) as caught:
        measure_catalog("cat.fits", settings(output, **options))
    reset()
    return caught.value


def call(*args):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        main([*args, "--method", "lsq", "--batch-size", "3", "--no-progress"])
    return stop.value.code


def whole(suffix="fits", **options):
    """Bytes of the table of a run that was not stopped."""
    measure_catalog("cat.fits", settings(f"whole.{suffix}", **options))
    return Path(f"whole.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("columns", [None, ("id", "text", "masked", "field")])
def test_every_format_is_the_same(catalog, suffix, columns):
    expected = whole(suffix, columns=columns)
    for stop_at in (3, 2, 2):
        stopped(stop_at, f"o.{suffix}", columns=columns, resume=True)
    summary = measure_catalog("cat.fits", settings(f"o.{suffix}", columns=columns, resume=True))
    assert Path(f"o.{suffix}").read_bytes() == expected
    assert StoppingFitter.calls == 3
    assert (summary.n_rows, summary.n_before) == (N_ROWS, 12)
    assert not journal_path(f"o.{suffix}").exists()
    assert columns is None or suffix != "fits" or tuple(Table.read("o.fits").colnames) == columns


def test_closing_lines_count_all_rows(catalog):
    first = measure_catalog("cat.fits", settings("whole.fits", columns=("id",)))
    stopped(4, columns=("id",))
    second = measure_catalog("cat.fits", settings(columns=("id",), resume=True))
    assert second.median_chi2() == first.median_chi2()
    np.testing.assert_array_equal(second.by_flag, first.by_flag)
    assert "9 of them by the run that was stopped" in str(second)
    assert "stopped" not in str(first)


@pytest.mark.parametrize("exception", [ValueError("bad"), RuntimeError("worse"), MemoryError(), KeyboardInterrupt()])
def test_exception_in_one_chunk(catalog, exception):
    expected = whole()
    err = stopped(3, exception=exception)
    assert err.__notes__ == ["6 of 20 rows are kept in o.fits.journal; go on with: the same call with resume=True"]
    measure_catalog("cat.fits", settings(resume=True))
    assert Path("o.fits").read_bytes() == expected


def test_exception_in_the_first_chunk_leaves_nothing(catalog):
    err = stopped(1)
    assert not hasattr(err, "__notes__")
    assert [path.name for path in catalog.iterdir()] == ["cat.fits"]


def test_a_stopped_run_is_not_passed_over(catalog):
    stopped(3)
    before = journal_path("o.fits").read_bytes()
    with pytest.raises(JournalError, match=r"6 of 20 rows are there from a run that was stopped; go on with: .*resume"):
        measure_catalog("cat.fits", settings())
    assert journal_path("o.fits").read_bytes() == before
    measure_catalog("cat.fits", settings(overwrite=True))
    assert StoppingFitter.calls == 7
    assert not journal_path("o.fits").exists()


def test_resume_without_a_stopped_run_begins(catalog):
    measure_catalog("cat.fits", settings(resume=True))
    assert len(Table.read("o.fits")) == N_ROWS
    with pytest.raises(FileExistsError, match="exists already"):
        measure_catalog("cat.fits", settings(resume=True))


CHANGES = {
    "--pixel-scale": {"reading": ReadOptions(pixel_scale=0.3)},
    "--rows": {"rows": "0:19"},
    "--columns": {"columns": ("id",)},
    "--label": {"label": "other"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused(catalog, name):
    stopped(3)
    before = journal_path("o.fits").read_bytes()
    with pytest.raises(JournalError, match=f"o.fits.journal: the run that was stopped had another {name}"):
        measure_catalog("cat.fits", settings(resume=True, **CHANGES[name]))
    assert journal_path("o.fits").read_bytes() == before
    assert StoppingFitter.calls == 0


@pytest.mark.parametrize("kind", ["pixel", "fewer rows", "version"])
def test_another_input_is_refused(catalog, monkeypatch, kind):
    stopped(3)
    if kind == "version":
        monkeypatch.setattr("galmeasure.__version__", "0.0.1")
    elif kind == "pixel":
        content = bytearray(Path("cat.fits").read_bytes())
        content[20_000] ^= 1
        Path("cat.fits").write_bytes(content)
    else:
        Path("cat.fits").unlink()
        cutout_table("cat.fits", {"error": np.ones(N_ROWS - 1)}, count=N_ROWS - 1)
    name = "version of galmeasure" if kind == "version" else "catalogue"
    with pytest.raises(JournalError, match=f"had another {name}"):
        measure_catalog("cat.fits", settings(resume=True))


def test_other_weights_are_found_out(catalog, monkeypatch):
    """Also where no option names them: the metadata of the rows that follow differ."""
    stopped(3)
    monkeypatch.setattr(StoppingFitter, "__init__", lambda self, **_: setattr(self, "label", "newer") or None)
    monkeypatch.setattr(StoppingFitter, "delay", 0.0, raising=False)
    monkeypatch.setattr(StoppingFitter, "fail", False, raising=False)
    with pytest.raises(JournalError, match=r"have other metadata \(SHA256\); begin anew with --overwrite"):
        measure_catalog("cat.fits", settings(resume=True))


@pytest.mark.parametrize("how", ["batch", "threads", "copied"])
def test_how_a_run_is_executed_may_change(catalog, monkeypatch, how):
    """The division into batches is that of the first run."""
    expected = whole()
    stopped(3)
    if how == "batch":
        monkeypatch.setattr("galmeasure.workflows.executors.n_cores", lambda: 4)
    if how == "copied":
        shutil.copy2("cat.fits", "new.fits")
        os.utime("new.fits", (1, 1))
    options = {"threads": 3} if how == "threads" else {}
    measure_catalog("new.fits" if how == "copied" else "cat.fits", settings(resume=True, **options))
    assert StoppingFitter.calls == 5
    assert Path("o.fits").read_bytes() == expected


def test_another_processor_is_warned_of(catalog, monkeypatch, recwarn):
    expected = whole()
    stopped(3)
    measure_catalog("cat.fits", settings(resume=True))
    assert not recwarn
    assert Path("o.fits").read_bytes() == expected
    stopped(3, "p.fits")
    monkeypatch.setattr("galmeasure.workflows.measure.processor_kind", lambda: "abacus, wooden")
    with pytest.warns(AstropyUserWarning, match=r"another processor \(.+, and now abacus, wooden\); the last digits"):
        measure_catalog("cat.fits", settings("p.fits", resume=True))
    assert Path("p.fits").read_bytes() == expected


def test_division_into_batches_is_that_of_the_first_run(catalog, monkeypatch):
    """The batches within a chunk, on which rounding depends, are made for the threads of the first run."""
    from galmeasure.fitters import threads

    seen = []
    fit = StoppingFitter.fit
    monkeypatch.setattr(StoppingFitter, "fit", lambda self, c: seen.append(threads.batch_division(1)) or fit(self, c))
    stopped(2, threads=2)
    measure_catalog("cat.fits", settings(resume=True))
    assert set(seen) == {2}
    assert len(seen) == 2 + 3


def test_second_run_on_one_output_is_refused(catalog):
    with Journal("o.fits", {}, {}, 3), pytest.raises(JournalError, match=r"another run is writing o\.fits"):
        measure_catalog("cat.fits", settings(overwrite=True))
    assert not journal_path("o.fits").exists()


def test_file_system_without_locks(catalog, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(AstropyUserWarning, match="the file system has no locks: make sure that no other run"):
        stopped(3)
    with pytest.warns(AstropyUserWarning, match="no locks"):
        measure_catalog("cat.fits", settings(resume=True))
    assert len(Table.read("o.fits")) == N_ROWS


def test_power_is_lost(catalog):
    """Wherever the file ends, or holds zeros instead of what was written, the run goes on before."""
    expected = whole()
    stopped(6)
    path = journal_path("o.fits")
    content = path.read_bytes()
    generator = random.Random(1)
    places = [0, 5, 21, 40, len(content) - 1, *(generator.randrange(len(content)) for _ in range(6))]
    for place in places:
        for tail in (b"", bytes(len(content) - place), bytes([content[place] ^ 4]) + content[place + 1 :]):
            damaged = content[:place] + tail
            if not damaged[:21] or content[:21].startswith(damaged[:21]):
                path.write_bytes(damaged)
                reset()
                measure_catalog("cat.fits", settings(resume=True))
                assert Path("o.fits").read_bytes() == expected
                assert StoppingFitter.calls >= 2
                Path("o.fits").unlink()
    assert not path.exists()


def test_other_files_are_not_taken_for_journals(catalog):
    journal_path("o.fits").write_text("precious")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(JournalError, match=r"o\.fits\.journal: is not a journal of this version"):
            measure_catalog("cat.fits", settings(**options))
    assert journal_path("o.fits").read_text() == "precious"


def test_rows_of_a_stopped_run_can_be_read(catalog):
    stopped(3)
    table = read_journal("o.fits")
    assert table["id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert str(table["flux_fit"].unit) == "3.631 uJy"
    assert table["flux_fit"].info.description == "sum of the pixels"
    with Journal("p.fits", {}, {}, 3) as journal, pytest.raises(JournalError, match="no rows are there yet"):
        read_journal(journal.path)


def test_long_names_have_journals(catalog):
    name = f"{'x' * 249}.fits"
    stopped(3, name)
    measure_catalog("cat.fits", settings(name, resume=True))
    assert len(Table.read(name)) == N_ROWS


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def spare(tmp_path_factory, monkeypatch):
    """Folder for temporary files, on another disk."""
    folder = tmp_path_factory.mktemp("spare")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder))
    return folder


def limited_append(monkeypatch, most, folders=()):
    """Let files of more bytes not be written, but in some folders."""
    append = spool.append

    def limited(file, offset, content):
        name = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        if offset + len(content) > most and not name.startswith(tuple(folders)):
            append(file, offset, content[:7])
            no_space()
        append(file, offset, content)

    monkeypatch.setattr(spool, "append", limited)
    monkeypatch.setattr(journals, "append", limited)


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files")
def test_disk_fills_and_the_run_goes_on_elsewhere(catalog, spare, monkeypatch):
    """The journal keeps what was finished before, and a kill would lose the rest only."""
    expected = whole()
    limited_append(monkeypatch, 4_000, [str(spare)])
    with pytest.warns(
        AstropyUserWarning, match=r"o\.fits\.journal: cannot grow \(No space left.*the journal ends at row"
    ):
        err = stopped(5)
    monkeypatch.undo()
    monkeypatch.chdir(catalog)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    n_kept = int(re.match(r"(\d+) of 20 rows are kept", err.__notes__[0])[1])
    assert 0 < n_kept < 12
    assert len(read_journal("o.fits")) == n_kept
    summary = measure_catalog("cat.fits", settings(resume=True))
    assert summary.n_before == n_kept
    assert Path("o.fits").read_bytes() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files")
def test_disk_fills_everywhere(catalog, spare, monkeypatch, capsys):
    expected = whole()
    with monkeypatch.context() as patch:
        limited_append(patch, 4_000)
        assert call("cat.fits", "-o", "o.fits") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "No space left on device" in err
    assert re.search(
        r"; \d+ of 20 rows are kept in o\.fits\.journal; go on with: galmeasure cat\.fits .* --resume$", err
    )
    assert call("cat.fits", "-o", "o.fits", "--resume") == 0
    assert Path("o.fits").read_bytes()[:2880] == expected[:2880]
    assert len(Table.read("o.fits")) == N_ROWS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_table_cannot_be_written_at_the_end(catalog, spare, monkeypatch, capsys, number):
    """The table is saved elsewhere, and the journal is there for one in its place."""

    def fail(writer, path):
        if path.parent.resolve() == catalog.resolve():
            raise OSError(number, os.strerror(number))
        make(writer, path)

    make = writers._MAKERS["fits"]
    with monkeypatch.context() as patch:
        patch.setitem(writers._MAKERS, "fits", fail)
        assert call("cat.fits", "-o", "o.fits") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    saved = re.search(r"the 20 rows that were measured are in (\S+);", err)[1]
    assert "; 20 of 20 rows are kept in o.fits.journal; go on with: galmeasure cat.fits -o o.fits" in err
    reset()
    assert call("cat.fits", "-o", "o.fits", "--resume") == 0
    assert StoppingFitter.calls == 0
    assert Path("o.fits").read_bytes() == Path(saved).read_bytes()


def test_disk_is_full_at_the_beginning(catalog, monkeypatch, capsys):
    monkeypatch.setattr(journals, "append", no_space)
    assert call("cat.fits", "-o", "o.fits") == 2
    err = capsys.readouterr().err
    reason = "o.fits.journal: cannot be written (No space left on device), and so the table could not be"
    assert err == f"galmeasure: error: {reason}\n"
    assert [path.name for path in catalog.iterdir()] == ["cat.fits"]


def test_input_shrinks(catalog, capsys, monkeypatch):
    """What was measured is kept, and can be read; the run goes on when the file is there again."""
    expected, content = whole(), Path("cat.fits").read_bytes()
    fit = StoppingFitter.fit

    def cut(self, cutouts):
        if int(cutouts.ids[0]) == 7:
            os.truncate("cat.fits", 5760)
        return fit(self, cutouts)

    with monkeypatch.context() as patch:
        patch.setattr(StoppingFitter, "fit", cut)
        assert call("cat.fits", "-o", "o.fits") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "cat.fits: has changed since it was opened" in err
    assert "; 9 of 20 rows are kept in o.fits.journal; go on with: galmeasure cat.fits" in err
    assert call("cat.fits", "-o", "o.fits", "--resume") == 2
    assert len(read_journal("o.fits")) == 9
    Path("cat.fits").write_bytes(content)
    assert call("cat.fits", "-o", "o.fits", "--resume") == 0
    assert len(Path("o.fits").read_bytes()) == len(expected)


def test_command_says_how_to_go_on(catalog, capsys):
    reset(3)
    assert call("cat.fits", "-o", "o.fits") == 130
    err = capsys.readouterr().err
    command = "galmeasure cat.fits -o o.fits --method lsq --batch-size 3 --no-progress --resume"
    assert err.endswith(f"galmeasure: stopped; 6 of 20 rows are kept in o.fits.journal; go on with: {command}\n")
    assert call("cat.fits", "-o", "o.fits") == 2
    assert f"go on with: {command}, or begin anew with --overwrite" in capsys.readouterr().err
    reset()
    assert call(*command.split()[1:4], "--resume") == 0
    assert "measured 20 of 20 galaxies" in capsys.readouterr().out


def test_several_catalogues_go_on(catalog, capsys):
    for name in ("a", "b", "c"):
        shutil.copy("cat.fits", f"{name}.fits")
    reset(7 + 3)
    names = ["a.fits", "b.fits", "c.fits"]
    assert call(*names) == 130
    reset()
    capsys.readouterr()
    assert call(*names, "--resume") == 0
    out, err = capsys.readouterr()
    assert err == "galmeasure: a_galmeasure.fits is there already, and is left as it is\n"
    assert out.count("measured 20 of 20 galaxies") == 2
    assert StoppingFitter.calls == 5 + 7
    tables = [Path(f"{name}_galmeasure.fits").read_bytes() for name in "abc"]
    assert tables[0] == tables[1] == tables[2]


def test_standard_output_has_no_journal(catalog, capsys):
    assert call("cat.fits", "-o", "-", "--resume") == 2
    assert "resume needs an output that is a file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="resume needs a journal"):
        settings(resume=True, journal=False)
    stopped(3, journal=False)
    assert [path.name for path in catalog.iterdir()] == ["cat.fits"]


def test_names_of_the_fingerprint(catalog, tmp_path):
    """Files are known by their content, arrays and weights too."""
    spec = FitterSpec("galmeasure.fitters", "NeuralSersicFitter", {"weights": "survey-v3"})
    first = fingerprint("cat.fits", ReadOptions(psf=np.ones((3, 3)), mask="cat.fits[2]"), spec)
    assert first["catalogue"] == file_digest("cat.fits")
    assert first["--mask"] == file_digest("cat.fits") + "[2]"
    assert re.fullmatch("[0-9a-f]{64}", first["--weights"])
    second = fingerprint("cat.fits", ReadOptions(psf=np.zeros((3, 3)), mask="cat.fits[1]"), spec)
    assert {name for name in first if first[name] != second[name]} == {"--psf", "--mask"}


@pytest.mark.parametrize("change", ["size", "time", "content", None])
def test_large_files_are_sampled(tmp_path, monkeypatch, change):
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprints, "SAMPLE_BYTES", 100)
    path = tmp_path / "large"
    content = bytearray(np.random.default_rng(1).bytes(100_000))
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    before = file_digest(path)
    if change == "content":
        content[50] ^= 1
    path.write_bytes(content[:-1] if change == "size" else content)
    os.utime(path, ns=(10**18, 10**18 + (change == "time")))
    assert (file_digest(path) == before) == (change is None)


def test_folders_are_digested(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    before = file_digest(tmp_path / "a")
    (tmp_path / "a" / "two").write_bytes(b"")
    assert file_digest(tmp_path / "a") != before


ARGUMENTS = ["cat.fits", "--method", "lsq", "--batch-size", "2", "--no-progress", "--quiet", "-o", "o.fits"]


def run_command(*args):
    """Measure a catalogue, in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main([*ARGUMENTS, *args])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("n_kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, monkeypatch, n_kills):
    """The table of a run that was killed again and again is that of a run that was left alone, to the last byte."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    count = 16 if n_kills < 50 else 120
    cutout_table("cat.fits", {"error": np.ones(count)}, count=count)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["galmeasure.fitters", "galmeasure.workflows.measure", "galmeasure.cli"])
    start = time.monotonic()
    assert finished(context, "--resume") == 0
    seconds = time.monotonic() - start
    expected = Path("o.fits").read_bytes()
    Path("o.fits").unlink()
    generator, n_done, n_rows = random.Random(7), 0, []
    while n_done < n_kills or max(n_rows) == 0:
        process = context.Process(target=run_command, args=("--resume",))
        process.start()
        wait = generator.uniform(0.0, seconds if n_kills < 50 else seconds / 4)
        if n_done % 2 == 0:
            process.join(wait)
        else:
            join_until(process, rows_kept() + generator.randint(1, 3))
        if process.is_alive():
            process.kill()
            n_done += 1
        process.join()
        n_rows.append(rows_kept())
        if Path("o.fits").exists():
            assert Path("o.fits").read_bytes() == expected
            Path("o.fits").unlink()
    assert finished(context, "--resume") == 0
    assert Path("o.fits").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir() if ".tmp" not in path.name) == ["cat.fits", "o.fits"]


def join_until(process, n_rows):
    """Wait until a run has kept so many rows, or has ended."""
    while process.is_alive() and rows_kept() < n_rows:
        time.sleep(0.002)


def rows_kept():
    """Rows in the journal of a run that was killed."""
    try:
        return len(read_journal("o.fits"))
    except (JournalError, FileNotFoundError):
        return 0


def finished(context, *args):
    """Exit code of a run that is left alone."""
    process = context.Process(target=run_command, args=args)
    process.start()
    process.join(600)
    return process.exitcode


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_limit_of_file_sizes(tmp_path, monkeypatch):
    """``ulimit -f``: what fits is kept, and one line says how to go on."""
    monkeypatch.chdir(tmp_path)
    cutout_table("cat.fits", {"error": np.ones(40)}, count=40)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.argv[0] = 'galmeasure'; from galmeasure.cli import main; main()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code, *ARGUMENTS], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    lines = run.stderr.splitlines()
    assert "File too large" in lines[-1]
    assert re.search(
        r"\d+ of 40 rows are kept in o\.fits\.journal; go on with: galmeasure cat\.fits .* --resume$", lines[-1]
    )
    assert 0 < len(read_journal("o.fits")) < 40
