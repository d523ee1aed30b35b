"""A fitter that only sums pixels: quick, for tests of reading, writing and the command line."""

import os
import sys
import time

import numpy as np
from astropy.table import QTable

from galmeasure.flags import Flag


class SumFitter:
    def __init__(self, *, device="cpu", batch_size=None, fit_background=False, delay=0.0, fail=False):
        self.batch_size, self.delay, self.fail = batch_size, delay, fail

    def __call__(self, cutouts):
        return self.fit(cutouts)

    def fit(self, cutouts):
        if self.delay:
            sys.stderr.write("measuring\n")
            sys.stderr.flush()
            time.sleep(self.delay)
        if self.fail == "die":
            os._exit(9)
        if self.fail:
            msg = "cutouts must be good"
            raise ValueError(msg)
        flux, flags = np.full(len(cutouts), np.nan), np.zeros(len(cutouts), dtype=np.int64)
        for batch in cutouts.batches():
            flux[batch.index] = (batch.image * batch.good).sum(axis=(1, 2)) * batch.scale
            flags[batch.index] = batch.flags
        flux[flags & int(Flag.FAILED) != 0] = np.nan
        table = QTable({"id": cutouts.ids, "flux_fit": flux})
        if cutouts.unit is not None:
            table["flux_fit"] = flux * cutouts.unit
        table["x_fit"], table["y_fit"] = (cutouts.origin + (cutouts.shapes[:, ::-1] - 1) / 2).T
        table["process"] = np.full(len(cutouts), os.getpid())
        table["vector"] = np.tile(np.arange(4.0).reshape(2, 2), (len(cutouts), 1, 1))
        table["method"], table["flags"] = np.full(len(cutouts), "sum"), flags
        table["flux_fit"].info.description = "sum of the pixels"
        table.meta.update({"FITTER": "SumFitter()", "FLAG0": "failed: no measurement"})
        return table
