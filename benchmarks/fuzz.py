"""Does any damaged file end in a traceback, a hang or a gigabyte?

Small sound files of every format that galmeasure reads are changed at random (bits, lengths, header cards, words,
counts, tensors with digests that fit them), read by the public functions, and the first rows are measured with
least squares. Allowed are measurements, and a ``ValueError`` of galmeasure with one line that names the file.
Everything follows from the seed: ``--again FORMAT NUMBER`` makes one input once more, shows how it ends, and keeps it
with ``--keep``.
"""

import argparse
import json
import multiprocessing
import resource
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import _one_core  # noqa: F401
import numpy as np
from _report import metadata, report
from astropy.table import Table

SECONDS, CLOCK, MEGABYTES = 10.0, 60.0, 1000.0
"""Limits of one input: processor time, clock time (a file that waits uses no processor), and memory above the base."""

GUARD = 6 * 2**30
"""Address space of a worker above its base, so that a fault does not take the machine down."""

LIFE = 1000
"""Inputs that one process reads before it is replaced by a fresh one."""

LONGEST = 700
"""Characters of a message."""


class TooSlowError(BaseException):
    """The processor time of an input is over; nothing in the package catches it."""


def make_input(name, number, seed, folder):
    """Content of a mutated file, the ending of its name, and what was changed."""
    from _fuzz_inputs import FORMATS, sound_files
    from _fuzz_mutations import mutate, pick

    rng = np.random.default_rng([seed, FORMATS.index(name), number])
    content, suffix, kind = pick(rng, sound_files(name, str(folder)))
    return *mutate(content, kind, rng), suffix


def outcome(name, path):
    """How reading ends: "measured", "refused", or a fault with its text."""
    from _fuzz_inputs import read

    try:
        read(name, path)
    except TooSlowError:
        return "slow", f"more than {SECONDS:.0f} s, {_place()}"
    except MemoryError as err:
        return "memory", f"MemoryError: {err}"
    except Exception as err:  # what is found out
        return _judge(err, path)
    return "measured", ""


def _judge(err, path):
    """Whether an exception is the one that is documented, with one line that names the file or an argument."""
    text, kind = str(err), type(err)
    if not (kind is ValueError or (issubclass(kind, ValueError) and kind.__module__.startswith("galmeasure"))):
        return "traceback", f"{kind.__name__}: {' '.join(text.split())[:200]}, {_place()}"
    if "unable to allocate" in text.lower() or "MemoryError" in text:
        return "memory", text[:300]
    if not text or "\n" in text or len(text) > LONGEST:
        return "message", f"{len(text)} characters, {text.count(chr(10))} ends of lines: {text[:200]!r}"
    if path.name not in text and not text.startswith("calibration"):
        return "nameless", f"{text[:200]}, {_place()}"
    return "refused", text


def _place():
    """Where the exception at hand was raised, and the last place in the package before that."""
    import sys

    frames = traceback.extract_tb(sys.exc_info()[2])
    own = [frame for frame in frames if "galmeasure" in Path(frame.filename).parts]
    chosen = [*own[-1:], *frames[-1:]]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(chosen))


def run_one(name, number, seed, folder):
    """Read one mutated file: outcome, text, seconds of the processor, megabytes, what was changed."""
    content, change, suffix = make_input(name, number, seed, folder)
    path = folder / f"input{suffix}"
    path.write_bytes(content)
    base = _forget_peak()
    start = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found, text = outcome(name, path)
    except TooSlowError:
        found, text = "slow", f"more than {SECONDS:.0f} s"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, size = time.process_time() - start, _memory("VmHWM") - base
    for each in folder.glob("input*"):
        each.unlink()
    if found in ("measured", "refused") and size > MEGABYTES:
        found, text = "memory", f"{size:.0f} MB; {text}"
    return found, text, seconds, size, change


def _memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024.0


def _forget_peak():
    """Let the peak of the memory begin anew; gives what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _stop(signum, frame):
    raise TooSlowError


def prepare(folder):
    """Make a process ready: files, limits, and what is only slow the first time."""
    import torch
    from _fuzz_inputs import FORMATS, read, sound_files, write_companions

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    write_companions(folder)
    for name in FORMATS:
        content, suffix, _ = sound_files(name, str(folder))[0]
        path = folder / f"input{suffix}"
        path.write_bytes(content)
        read(name, path)
        path.unlink()
    limit = int(_memory("VmSize") * 2**20) + GUARD
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGPROF, _stop)


def serve(pipe, seed):
    """Read inputs, named by format and number, until the pipe is closed."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder)
        pipe.send("ready")
        while True:
            try:
                name, number = pipe.recv()
            except EOFError:
                return
            pipe.send(run_one(name, number, seed, folder))


class Worker:
    """A process that reads inputs, and is replaced when it dies, hangs or grows old."""

    def __init__(self, seed):
        self.seed, self.process, self.age = seed, None, 0

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.seed), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()
        self.age = 0

    def stop(self):
        """End the process."""
        if self.process is not None:
            self.pipe.close()
            self.process.join(5.0)
            self.process.kill()
            self.process.join()
            self.process = None

    def run(self, name, number):
        """Outcome of one input; see `run_one`."""
        if self.process is not None and self.age >= LIFE:
            self.stop()
        if self.process is None:
            self._start()
        self.age += 1
        try:
            self.pipe.send((name, number))
            if self.pipe.poll(CLOCK):
                return self.pipe.recv()
            found = "hang", f"more than {CLOCK:.0f} s of the clock", CLOCK, 0.0, ""
        except (EOFError, OSError):
            self.process.join()
            found = "crash", f"the process ended with {self.process.exitcode}", 0.0, 0.0, ""
        self.process.kill()
        self.stop()
        return found


def fuzz(args):
    """Run all inputs, in turns of the formats; write the table and the faults."""
    names = args.formats
    rows = {name: [] for name in names}
    faults, worker, start = [], Worker(args.seed), time.monotonic()
    for index in range(args.number):
        name, number = names[index % len(names)], index // len(names)
        found = worker.run(name, number)
        rows[name].append(found)
        if found[0] not in ("measured", "refused"):
            faults.append((name, number, *found))
            print(f"{name} {number}: {found[0]}: {found[1]} [{found[4]}]", flush=True)
        if (index + 1) % 1000 == 0:
            print(f"{index + 1} inputs, {len(faults)} faults, {time.monotonic() - start:.0f} s", flush=True)
    worker.stop()
    meta = metadata(1, ("pyarrow", "safetensors"), seed=args.seed, seconds=round(time.monotonic() - start))
    meta["limits"] = {"processor_s": SECONDS, "clock_s": CLOCK, "MB": MEGABYTES}
    meta["faults"] = [json.dumps(fault[:4]) for fault in faults]
    columns = ("format", "inputs", "measured", "refused", "faults", "median_s", "longest_s", "largest_MB")
    table = Table(rows=[_row(name, rows[name]) for name in names if rows[name]], names=columns)
    table["longest_s"].description = table["median_s"].description = "processor time, reading and measuring"
    table["largest_MB"].description = "peak of the memory above that of the process before"
    title = "Mutated files: how reading them ends (faults: tracebacks, hangs, crashes, memory, bad messages)"
    report("fuzz", table, meta, title=title, output=args.output)
    return not faults


def _row(name, found):
    outcomes, seconds, sizes = [each[0] for each in found], [each[2] for each in found], [each[3] for each in found]
    good = outcomes.count("measured"), outcomes.count("refused")
    return name, len(found), *good, len(found) - sum(good), np.median(seconds), max(seconds), max(sizes)


def again(name, number, seed, keep):
    """Make one input again, and show how it ends."""
    from _fuzz_inputs import read

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder)
        content, change, suffix = make_input(name, number, seed, folder)
        print(f"{name} {number}: {change}")
        path = folder / f"input{suffix}"
        path.write_bytes(content)
        if keep:
            Path(keep).write_bytes(content)
        print(f"{read(name, path)} rows are measured")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=10_000, help="inputs, all formats together (%(default)s)")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--formats", nargs="+", help="formats to mutate; all by default")
    parser.add_argument("--again", nargs=2, metavar=("FORMAT", "NUMBER"), help="make one input again")
    parser.add_argument("--keep", help="file to which the input of --again is written")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    if args.again:
        again(args.again[0], int(args.again[1]), args.seed, args.keep)
        return
    from _fuzz_inputs import FORMATS

    args.formats = args.formats or list(FORMATS)
    raise SystemExit(0 if fuzz(args) else 1)


if __name__ == "__main__":
    main()
