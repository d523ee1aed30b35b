"""Page on which a galaxy is drawn with sliders, and measured while they move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galmeasure.app.corner import corner_picture
from galmeasure.app.drawing import DrawnGalaxy, draw_galaxy
from galmeasure.app.estimators import EstimatorChoice, list_estimators, make_estimator
from galmeasure.app.measuring import MeasuredGalaxy, flag_sentences, measure_galaxy, result_rows
from galmeasure.app.pictures import RESIDUAL_RANGE, psf_picture, residual_picture, stamp_picture
from galmeasure.app.sliders import SLIDERS, GalaxySettings, Slider

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["show_draw_page"]

_SEED, _VALUES = "noise seed", "slider values"
_ABOUT_THE_TABLE = (
    "The bound is that of Cramer and Rao, the smallest error of an unbiased estimator; a posterior mean is not "
    "unbiased, and may do better. The pull is the deviation from the truth in units of the error."
)


def show_draw_page() -> None:
    """Show sliders, stamps, the measurement and its posterior."""
    import streamlit as st

    st.title("Draw a galaxy and measure it")
    with st.sidebar:
        choice = _choose_estimator()
        st.button("New noise", key="new noise", on_click=_renew_noise, help="Draw other noise of the same galaxy.")
        settings = _read_sliders(st.session_state)
    drawn = draw_galaxy(settings, st.session_state.get(_SEED, 0))
    _show_numbers(drawn)
    places = _show_stamps(drawn)
    if choice.is_slow and not st.button(f"Measure with: {choice.label}", key="measure"):
        st.info("This estimator takes long: it measures when you press the button.")
        return
    measured = measure_galaxy(drawn, make_estimator(choice.label))
    _show_fit(drawn, measured, places)
    _show_result(drawn, measured, choice)


def _choose_estimator() -> EstimatorChoice:
    """Ask for the estimator."""
    import streamlit as st

    choices = {choice.label: choice for choice in list_estimators()}
    label = st.selectbox("Estimator", list(choices), key="draw estimator")
    st.caption(choices[label].about)
    return choices[label]


def _renew_noise() -> None:
    """Count the seed of the noise up."""
    import streamlit as st

    st.session_state[_SEED] = st.session_state.get(_SEED, 0) + 1


def _read_sliders(state: MutableMapping) -> GalaxySettings:
    """Show the sliders and read them; values are kept when the ranges change, as far as they fit."""
    import streamlit as st

    wide = st.toggle("Wider ranges than the study's", key="wide")
    values = state.setdefault(_VALUES, {slider.name: slider.default for slider in SLIDERS})
    for slider in SLIDERS:
        values[slider.name] = _show_slider(slider, wide, slider.nearest(values[slider.name], wide))
    return GalaxySettings(**values)


def _show_slider(slider: Slider, wide: bool, value: float) -> float:
    """Show one slider; each range has a slider of its own, which starts where the other one stood."""
    import streamlit as st

    key = f"{slider.name} {'wide' if wide else 'study'}"
    start = {} if key in st.session_state else {"value": value}
    if wide and slider.logarithmic:
        return st.select_slider(slider.label, slider.choices(), key=key, format_func=lambda v: f"{v:,g}", **start)
    low, high = slider.limits(wide)
    return st.slider(slider.label, low, high, step=slider.step, format=slider.number_format, key=key, **start)


def _show_numbers(drawn: DrawnGalaxy) -> None:
    """Show signal-to-noise ratio and shear."""
    import streamlit as st

    numbers = {
        "S/N": (f"{drawn.snr:.1f}", "Over the noise of the background, as the study chose its galaxies by."),
        "S/N, all noise": (
            f"{drawn.snr_total:.1f}",
            "With the noise of the light itself, as in the column snr.",
        ),
        "g1": (f"{drawn.truth['g1']:+.3f}", "Reduced shear along the axes, |g| = (a - b) / (a + b)."),
        "g2": (f"{drawn.truth['g2']:+.3f}", "Reduced shear along the diagonals."),
    }
    for place, (name, (value, about)) in zip(st.columns(len(numbers)), numbers.items(), strict=True):
        place.metric(name, value, help=about)


def _show_stamps(drawn: DrawnGalaxy) -> list:
    """Show the stamps before they are measured; gives the places that are left for model and residual."""
    import streamlit as st

    places = st.columns(5)
    sigma, peak = drawn.settings.sigma, float(drawn.noiseless.max())
    places[0].image(stamp_picture(drawn.noiseless, sigma, peak), caption="Without noise", width="stretch")
    noisy = drawn.cutouts.image(0)
    places[1].image(stamp_picture(noisy, sigma, peak), caption="With noise", width="stretch")
    psf = drawn.cutouts.psf_image(0)
    places[2].image(psf_picture(psf), caption="PSF, four decades", width="stretch")
    return places[3:]


def _show_fit(drawn: DrawnGalaxy, measured: MeasuredGalaxy, places: list) -> None:
    """Show model and residual beside the stamps."""
    if measured.model is None or measured.residual is None:
        places[0].warning("No model: the measurement failed.")
        return
    sigma, peak = drawn.settings.sigma, float(drawn.noiseless.max())
    places[0].image(stamp_picture(measured.model, sigma, peak), caption="Model", width="stretch")
    caption = f"Residual, ±{RESIDUAL_RANGE:g} times the noise"
    places[1].image(residual_picture(measured.residual), caption=caption, width="stretch")


def _show_result(drawn: DrawnGalaxy, measured: MeasuredGalaxy, choice: EstimatorChoice) -> None:
    """Show the table of numbers, the flags and the corner picture."""
    import streamlit as st

    left, right = st.columns(2)
    with left:
        st.subheader("Measurement")
        st.table(result_rows(drawn, measured))
        st.caption(f"{choice.label}: {1000 * measured.seconds:.0f} ms. {_ABOUT_THE_TABLE}")
        for sentence in flag_sentences(measured.flags):
            st.warning(sentence)
    with right:
        st.subheader("Posterior")
        st.image(corner_picture(drawn, measured), width="stretch")
