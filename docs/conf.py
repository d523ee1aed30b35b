"""Configuration of the documentation."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "galmeasure"
author = "The galmeasure developers"
copyright = f"2026, {author}"
release = installed_version(project)
version = ".".join(release.split(".")[:2])

extensions = [
    "galmeasure_models",
    "galmeasure_tables",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_automodapi.automodapi",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "gallery_source", "sg_execution_times.rst"]
default_role = "py:obj"
nitpicky = True
# Names of other packages resolve where their inventories can be fetched, that is where the pages are published.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|astropy|click|enum|galsim|matplotlib|numpy|os|pathlib|photutils|scipy|torch)\..*"),
    ("py:mod", r"galmeasure\._.*"),  # private helpers
    ("py:mod", r"galmeasure\.render\..*"),
    ("py:class", r"galmeasure\.fitters\.neural\.network_images\.NetworkImages"),
    ("py:obj", r"[a-z_]+"),  # arguments in docstrings
]
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3/", None),
        "astropy": ("https://docs.astropy.org/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "photutils": ("https://photutils.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

automodapi_toctreedirnm = "api"
automodapi_inheritance_diagram = False
automodsumm_inherited_members = False
autodoc_typehints = "none"  # the docstrings have them
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
plot_formats = ["png"]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
plot_working_directory = str(Path(__file__).parents[1])

sphinx_gallery_conf = {
    "examples_dirs": ["gallery_source"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": "plot_",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "capture_repr": (),
    "show_memory": False,
    "plot_gallery": True,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"galmeasure {release}"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["galmeasure.css"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 7,
    "logo": {"text": "galmeasure", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_end": ["search-button", "theme-switcher"],
    "navbar_persistent": [],
    "show_prev_next": True,
    "show_toc_level": 2,
}
html_sidebars = {"index": [], "changes": []}
