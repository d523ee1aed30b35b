"""What makes Xception affordable on a CPU: the order of its maps in memory, bfloat16, and the central pixels alone.

Stamps a second on one core, forward and in training, in batches of 32; and how much larger the Cramer-Rao bounds of
data sets 1 and 3 are when only the central pixels are seen, median and 95th percentile.
"""

import argparse
import time

import _one_core  # noqa: F401
import numpy as np
import torch
from _report import metadata, report
from astropy.table import Table

from galmeasure.likelihood import cramer_rao_bound, fisher_matrix
from galmeasure.networks.encoders.xception import Xception
from galmeasure.parameters import PARAMETER_NAMES
from galmeasure.simulation.stamps import simulate_stamps
from galmeasure.training import read_training_config

BATCH = 32
NAMES = PARAMETER_NAMES[:5]


def rate(function, repeat):
    """Stamps a second of processor time."""
    function()
    start = time.process_time()
    for _ in range(repeat):
        function()
    return BATCH * repeat / (time.process_time() - start)


def speed(repeat):
    """Rows of the rates of all forms."""
    for window in (64, 32):
        for order in ("channels first", "channels last"):
            for bf16 in (False, True):
                memory = torch.channels_last if order == "channels last" else torch.contiguous_format
                network = Xception(1, memory_format=memory).to(memory_format=memory)
                images = torch.randn(BATCH, 1, window, window)

                def loss(network=network, images=images, bf16=bf16):
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        return network(images).float().square().mean()

                with torch.inference_mode():
                    forward = rate(loss, repeat)
                training = rate(lambda loss=loss: loss().backward(), repeat)
                yield window, order, "bfloat16" if bf16 else "float32", forward, training


def bounds(number):
    """Rows of the ratios of the bounds of a central window to those of the whole stamp."""
    for dataset in (1, 3):
        simulation = read_training_config(f"xception-set{dataset}-v1").simulation
        stamps = simulate_stamps(simulation, number, generator=torch.Generator().manual_seed(3))
        error, whole = torch.ones_like(stamps.image), None
        for window in (64, 48, 40, 32):
            edge = (64 - window) // 2
            good = torch.zeros_like(stamps.good)
            good[:, edge : 64 - edge, edge : 64 - edge] = True
            fisher = fisher_matrix(
                stamps.parameters, stamps.psf_grid, error, psf_index=stamps.psf_index, good=good, gain=stamps.gain
            )
            bound = cramer_rao_bound(fisher)
            whole = bound if whole is None else whole
            ratio = (bound / whole).numpy()[:, : len(NAMES)]
            yield dataset, window, *np.median(ratio, axis=0), *np.percentile(ratio, 95, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--number", type=int, default=160, help="galaxies of each set (%(default)s)")
    parser.add_argument("--repeat", type=int, default=4, help="batches of each timing (%(default)s)")
    parser.add_argument("--output")
    args = parser.parse_args()
    meta = metadata(1, options=vars(args))
    names = ("window", "order", "precision", "forward", "training")
    table = Table(rows=list(speed(args.repeat)), names=names)
    report("xception_speed", table, meta, title="Stamps a second on one core", output=args.output,
           formats={"forward": ".0f", "training": ".0f"})  # fmt: skip
    names = ("set", "window", *NAMES, *(f"{name}_p95" for name in NAMES))
    title = "Cramer-Rao bounds of a central window over those of the whole stamp"
    table = Table(rows=list(bounds(args.number)), names=names)
    report("xception_window", table, meta, title=title, output=args.output)


if __name__ == "__main__":
    main()
