"""How long does the app take to answer a slider?

The page of the drawn galaxy is run by Streamlit's test harness, once for each position of a slider, with every
estimator: time by the clock and of the processor, median and longest of all moves. Streamlit's start and the first run,
which loads the network, do not count; what the browser does is not in it.
"""

import argparse
import logging
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _report import metadata, report
from astropy.table import Table
from streamlit.testing.v1 import AppTest

from galmeasure.app.estimators import list_estimators
from galmeasure.app.sliders import SLIDERS

SCRIPT = "from galmeasure.app.page_draw import show_draw_page\nshow_draw_page()\n"


def moves(repeat):
    """Slider and position of each move, all sliders in turn."""
    for number in range(repeat):
        slider = SLIDERS[number % len(SLIDERS)]
        low, high = slider.study
        yield slider, slider.nearest(low + (high - low) * (0.15 + 0.7 * number / repeat), False)


def timed(choice, repeat):
    """Seconds by the clock and of the processor of each move."""
    app = AppTest.from_string(SCRIPT, default_timeout=300)
    app.session_state["draw estimator"] = choice.label
    app.run()
    times = []
    for slider, value in moves(repeat):
        app.slider(key=f"{slider.name} study").set_value(value)
        clock, processor = time.perf_counter(), time.process_time()
        app.run()
        times.append((time.perf_counter() - clock, time.process_time() - processor))
        if app.exception:
            raise RuntimeError(app.exception[0].message)
    return np.array(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=21, help="moves of sliders for each estimator")
    parser.add_argument("--output", help="folder for the table")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    for choice in list_estimators():
        if not choice.is_slow:
            times = timed(choice, options.repeat)
            rows.append((choice.label, *np.median(times, axis=0), *times.max(axis=0)))
    names = ("estimator", "clock_median", "processor_median", "clock_max", "processor_max")
    table = Table(rows=rows, names=names)
    for name in names[1:]:
        table[name].unit = "s"
    load = os.getloadavg()[0]
    meta = metadata(os.cpu_count(), ("streamlit",), load=load, repeat=options.repeat)
    formats = dict.fromkeys(names[1:], ".3f")
    report("app_speed", table, meta, title="Answer of the app to a slider", formats=formats, output=options.output)


if __name__ == "__main__":
    main()
