"""Page on which an uploaded catalogue is measured."""

from __future__ import annotations

from galmeasure.app.estimators import list_estimators
from galmeasure.app.pictures import figure_png
from galmeasure.app.uploads import (
    DEMO_ROWS,
    MAX_ROWS,
    MeasuredCatalog,
    Upload,
    UploadError,
    demo_upload,
    fit_gallery,
    measure_upload,
    plain_table,
    table_file,
)

__all__ = ["show_catalog_page"]

_RESULT, _DEMO = "measured catalogue", "demo catalogue"
_SHOWN_AT_ONCE = 12
_OPTIONS = {
    "error": "Noise of a pixel (1 sigma)",
    "gain": "Gain [electrons per unit]",
    "pixel_scale": "Pixel scale [arcsec]",
    "zero_point": "Zero point [mag]",
}


def show_catalog_page() -> None:
    """Show the form for files, and what was measured in them."""
    import streamlit as st

    st.title("Measure your catalogue")
    upload = _ask_for_upload()
    with st.sidebar:
        estimator = st.selectbox("Estimator", [choice.label for choice in list_estimators()], key="catalogue estimator")
        n_rows = st.slider("Galaxies to measure", 1, MAX_ROWS, 50, key="catalogue rows")
    if upload is None:
        st.session_state.pop(_RESULT, None)
        return
    measured = _measured(upload, estimator, n_rows)
    if measured is not None:
        _show_summary(measured)
        _show_table(measured)
        _show_gallery(measured)
        _show_one(measured)


def _ask_for_upload() -> Upload | None:
    """Ask for files and options; None as long as there is no file."""
    import streamlit as st

    limit = st.get_option("server.maxUploadSize")
    st.write(
        f"A FITS file of at most {limit} MB: a table of cutouts, one stamp, cutouts in extensions, or an image of a "
        "field. "
        f"The first {MAX_ROWS} galaxies can be measured here; the command `galmeasure` has no such limit. "
        "Your files are read in a temporary folder, which is removed at once, and nothing is kept."
    )
    source = st.radio("Source", ["Demo catalogue", "Upload"], horizontal=True, key="catalogue source")
    if source == "Demo catalogue":
        st.caption(f"{DEMO_ROWS} galaxies like those of the study's third data set, drawn for you.")
        return _demo()
    file = st.file_uploader("Catalogue or stamp", type=["fits", "fit"], key="catalogue file")
    with st.expander("PSF, noise and calibration, where the file does not say them"):
        psf = st.file_uploader("PSF image", type=["fits", "fit"], key="psf file")
        no_psf = st.checkbox("There is no PSF: take a delta function", key="no psf")
        detect = st.checkbox("The file is an image of a field: detect its sources", key="detect")
        numbers = {
            name: st.number_input(label, value=None, format="%g", placeholder="as the file says", key=name)
            for name, label in _OPTIONS.items()
        }
    if file is None:
        return None
    return Upload(
        name=file.name, data=file.getvalue(), psf=None if psf is None else psf.getvalue(), no_psf=no_psf, detect=detect,
        **numbers,
    )  # fmt: skip


def _demo() -> Upload:
    """Make the demo catalogue once in a session."""
    import streamlit as st

    if _DEMO not in st.session_state:
        st.session_state[_DEMO] = demo_upload()
    return st.session_state[_DEMO]


def _measured(upload: Upload, estimator: str, n_rows: int) -> MeasuredCatalog | None:
    """Measure unless just this was measured before; None after a message about what is wrong."""
    import streamlit as st

    key = (upload, estimator, n_rows)
    kept = st.session_state.get(_RESULT)
    if kept is not None and kept[0] == key:
        return kept[1]
    try:
        with st.spinner("Measuring ..."):
            measured = measure_upload(upload, estimator, n_rows)
    except UploadError as err:
        st.session_state.pop(_RESULT, None)
        st.error(str(err))
        return None
    st.session_state[_RESULT] = (key, measured)
    return measured


def _show_summary(measured: MeasuredCatalog) -> None:
    """Show counts, flags and notes."""
    import streamlit as st

    n_failed = measured.counts.get("failed", 0)
    n_rows = len(measured.table)
    st.success(f"Measured {n_rows - n_failed} of {n_rows} galaxies in {measured.seconds:.1f} s "
               f"({measured.n_total} in {measured.name}).")  # fmt: skip
    if measured.counts:
        st.caption("Flags: " + ", ".join(f"{name} {count}" for name, count in measured.counts.items()))
    if measured.notes:
        st.caption("Used " + ", ".join(measured.notes))
    if measured.warning:
        st.warning(measured.warning)


def _show_table(measured: MeasuredCatalog) -> None:
    """Show the table, and offer it as files."""
    import streamlit as st

    st.subheader("Table")
    st.dataframe(plain_table(measured.table), height=300)
    stem = measured.name.rsplit(".", 1)[0]
    for place, suffix in zip(st.columns(3), (".fits", ".ecsv", ".csv"), strict=True):
        place.download_button(
            f"Download {suffix[1:].upper()}", lambda suffix=suffix: table_file(measured.table, suffix),
            file_name=f"{stem}_galmeasure{suffix}", key=f"download {suffix}", on_click="ignore", width="stretch",
        )  # fmt: skip


def _show_gallery(measured: MeasuredCatalog) -> None:
    """Show stamps, models and residuals, a dozen at once."""
    import streamlit as st

    st.subheader("Fits")
    n_pages = -(-len(measured.table) // _SHOWN_AT_ONCE)
    page = st.slider("Page", 1, n_pages, 1, key="gallery page") if n_pages > 1 else 1
    first = _SHOWN_AT_ONCE * (min(page, n_pages) - 1)
    ids = ", ".join(str(value) for value in measured.table["id"][first : first + _SHOWN_AT_ONCE])
    st.image(fit_gallery(measured, first, _SHOWN_AT_ONCE), width="stretch")
    st.caption(f"Stamp, model and residual (±5 times the noise) of galaxies {ids}, two in a row.")


def _show_one(measured: MeasuredCatalog) -> None:
    """Show the fit of one galaxy in detail."""
    import streamlit as st

    from galmeasure.evaluation import plot_fit

    ids = [str(value) for value in measured.table["id"]]
    chosen = st.selectbox("One galaxy in detail", ids, index=None, placeholder="choose its id", key="one galaxy")
    if chosen is None:
        return
    row = ids.index(chosen)
    st.image(figure_png(plot_fit(measured.table[row], measured.cutouts[row])), width="stretch")
