"""Page that shows the study's data sets."""

from __future__ import annotations

import numpy as np

from galmeasure.app.pictures import figure_png, histograms, stamp_mosaic
from galmeasure.app.study_sets import STUDY_SETS, StudyGalaxies, describe_set, draw_study_galaxies

__all__ = ["show_sets_page"]

_SHOWN = ("flux", "n", "r_eff", "g1", "g2", "snr", "snr_total", "sigma", "psf_fwhm")
_STAMPS = 60


def show_sets_page() -> None:
    """Show histograms of labels, noise and PSF, and a gallery of stamps."""
    import streamlit as st

    st.title("Data sets of the study")
    with st.sidebar:
        name = st.radio("Data set", STUDY_SETS, format_func=describe_set, key="set name")
        count = st.select_slider("Galaxies", [100, 200, 500, 1000, 2000], 200, key="set size")
        order = st.selectbox("Order of the stamps", ["as drawn", *_SHOWN], key="set order")
    st.write(
        "Sersic galaxies through a Moffat PSF (beta 2) on 64 x 64 pixels of 0.23 arcsec, with Poisson noise of their "
        "light and Gaussian noise of the background; kept where S/N over the latter is 10 to 100. They are drawn here "
        "with galmeasure's renderer; `galmeasure simulate` draws the same distributions with GalSim."
    )
    galaxies, picture = st.cache_data(_draw, max_entries=12, show_spinner="Drawing ...")(name, count)
    st.subheader("Labels, signal-to-noise ratio, noise and PSF")
    st.image(picture, width="stretch")
    st.subheader("Stamps")
    st.image(stamp_mosaic(galaxies.cutouts[_first_rows(galaxies, order)], columns=12), width="stretch")
    st.caption(f"{min(_STAMPS, count)} of {count} galaxies, {order if order == 'as drawn' else 'by ' + order}.")


def _draw(name: str, count: int) -> tuple[StudyGalaxies, bytes]:
    """Draw galaxies and their histograms."""
    galaxies = draw_study_galaxies(name, count)
    return galaxies, figure_png(histograms({key: galaxies.truth[key] for key in _SHOWN}))


def _first_rows(galaxies: StudyGalaxies, order: str) -> np.ndarray:
    """Rows of the stamps that are shown: the first ones, or evenly spread over a quantity in ascending order."""
    rows = np.arange(len(galaxies)) if order == "as drawn" else np.argsort(galaxies.truth[order])
    if order != "as drawn":
        rows = rows[np.linspace(0, len(rows) - 1, min(_STAMPS, len(rows))).astype(int)]
    return rows[:_STAMPS]
