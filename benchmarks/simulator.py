"""How fast are stamps made? The torch simulator for each prior, in one and in several processes, and GalSim."""

import argparse
import multiprocessing
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import _one_core  # noqa: F401
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure.training import DATASETS, SimulationConfig, StampPool, make_dataset, simulate_stamps

CONFIGS = {
    "survey": SimulationConfig(),
    "survey without neighbours": SimulationConfig(neighbours=0.0),
    "study": SimulationConfig.study(),
}
PIECE = 512


def torch_rate(name, seconds, device="cpu", piece=PIECE, seed=0):
    """Stamps a second of one process."""
    torch.set_num_threads(1)
    generator = torch.Generator(device).manual_seed(seed)
    simulate_stamps(CONFIGS[name], piece, generator=generator, device=device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        simulate_stamps(CONFIGS[name], piece, generator=generator, device=device)
        if device != "cpu":
            torch.cuda.synchronize()
        count += piece
    return count / (time.perf_counter() - start)


def pool_rate(name, seconds, reuse):
    """Stamps a second that training draws from its pool."""
    torch.set_num_threads(1)
    pool = StampPool(CONFIGS[name], capacity=2048, reuse=reuse)
    list(pool.fill())
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        pool.draw(128)
        count += 128
    return count / (time.perf_counter() - start)


def in_processes(number, function, *args):
    """Sum of the rates of processes that run side by side."""
    with multiprocessing.get_context("spawn").Pool(number) as workers:
        return sum(workers.starmap(function, [args] * number))


def galsim_rate(count, n_jobs, share_n):
    """Rows a second of ``galmeasure simulate`` for set 3."""
    from dataclasses import replace

    config = replace(DATASETS["3"], share_n=share_n)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_dataset(Path(folder, "set.fits"), config, size=count, seed=1, n_jobs=n_jobs)
        return count / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu", help="cuda measures the torch simulator there alone")
    parser.add_argument("--piece", type=int, default=PIECE, help="stamps simulated at once (%(default)s)")
    parser.add_argument("--galsim", type=int, default=400, help="rows drawn with GalSim, 0 for none (%(default)s)")
    parser.add_argument("--output", help="folder of the results")
    args = parser.parse_args()
    rows = []
    for name in CONFIGS:
        if args.device != "cpu":
            rows.append((f"torch, {name}", args.device, 1, torch_rate(name, args.seconds, args.device, args.piece)))
            continue
        for number in args.processes:
            rows.append(
                (
                    f"torch, {name}",
                    "cpu",
                    number,
                    in_processes(number, torch_rate, name, args.seconds, "cpu", args.piece),
                )
            )
            print(rows[-1], flush=True)
    if args.device == "cpu":
        rows.append(("pool of training, survey, each seen 4 times", "cpu", 1, pool_rate("survey", args.seconds, 4.0)))
        if args.galsim:
            for share_n in (1, 16):
                for number in args.processes:
                    rate = galsim_rate(args.galsim, number, share_n)
                    rows.append((f"GalSim, set 3, {share_n} galaxies share an n", "cpu", number, rate))
    table = Table(rows=rows, names=("simulator", "device", "processes", "stamps_per_s"))
    name = "simulator" if args.device == "cpu" else f"simulator_{args.device}"
    meta = metadata(max(args.processes), seconds=args.seconds, piece=args.piece)
    report(name, table, meta, title="Stamps a second", output=args.output)


if __name__ == "__main__":
    main()
