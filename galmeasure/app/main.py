"""Script that Streamlit runs: the pages of the app."""

from galmeasure.app.page_catalog import show_catalog_page
from galmeasure.app.page_draw import show_draw_page
from galmeasure.app.page_sets import show_sets_page


def main() -> None:
    """Show the page that the visitor has chosen."""
    import streamlit as st

    st.set_page_config(page_title="galmeasure", layout="wide")
    pages = [
        st.Page(show_draw_page, title="Draw and measure", url_path="draw", default=True),
        st.Page(show_catalog_page, title="Your catalogue", url_path="catalogue"),
        st.Page(show_sets_page, title="Data sets of the study", url_path="sets"),
    ]
    st.navigation(pages).run()


if __name__ == "__main__":
    main()
