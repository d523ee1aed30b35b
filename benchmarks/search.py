"""Which encoder learns fastest? A search with short trainings on the study's stamps, the best three trained again."""

import argparse
import dataclasses
import shutil
from pathlib import Path

import _one_core  # noqa: F401
from _report import metadata, report

from galmeasure.training import SearchSettings, read_training_config, search_architectures

PICTURE = Path(__file__).parents[1] / "docs" / "figures" / "parallel_coordinates.png"


def settings(options):
    """Settings of the search: batches of 64, so that a trial takes a minute at most."""
    base = dataclasses.replace(read_training_config("study-v2"), batch_size=64)
    return SearchSettings(
        folder=options.folder, base=base, trials=options.trials, steps=options.steps, repeat=options.repeat, pool=1024,
        held_out=512,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="runs/search_benchmark", help="storage; the same command goes on")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    chosen = settings(options)
    result = search_architectures(chosen, report=lambda line: print(line, flush=True))
    about = metadata(1, ("optuna",), steps=chosen.steps, batch_size=64, held_out=chosen.held_out)
    report("search", result.trials, about | {"importances": result.importances})
    report("search_repeats", result.repeats, about)
    shutil.copyfile(Path(options.folder) / "parallel_coordinates.png", PICTURE)


if __name__ == "__main__":
    main()
