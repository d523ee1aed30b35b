"""A quick fitter that stops at one of its chunks, for tests of runs that go on after a stop."""

import numpy as np
from _fake_fitter import SumFitter
from astropy.table import MaskedColumn


class StoppingFitter(SumFitter):
    """Sums of pixels, with text of several widths, masked integers and a reduced chi2."""

    calls, stop_at, exception = 0, None, None

    def __init__(self, *, device="cpu", batch_size=None, label="label"):
        super().__init__()
        self.label = label

    def fit(self, cutouts):
        cls = type(self)
        cls.calls += 1
        if cls.calls == cls.stop_at:
            raise cls.exception
        table = super().fit(cutouts)
        first = int(table["id"][0])
        table["text"] = [f"{self.label} {'x' * (row % 7)}" for row in table["id"]]
        if first % 3 == 0:
            table["text"] = np.char.encode(table["text"], "ascii").astype("U40")
        table["masked"] = MaskedColumn(np.arange(len(table), dtype=np.int16), mask=[first % 2 == 0] * len(table))
        table["chi2_reduced"] = np.linspace(0.9, 1.1, len(table)) + first / 1000.0
        table["small"] = np.asarray(table["id"] % 2 == 0)
        table.meta["SHA256"] = self.label
        return table
