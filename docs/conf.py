"""Settings of the documentation: ``sphinx-build -W docs docs/_build`` makes it, without network."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

project = "hisdiff"
author = "The hisdiff developers"
copyright = author
version = release = version_of("hisdiff")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "_static", "_templates"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

# Notebooks carry their outputs; CI runs them where they live, and building pages runs nothing.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Types stand in signatures and nowhere else.
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_custom_sections = ["Returns"]  # prose: what is written where, not a list of types
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
autosummary_generate = True
autodoc_member_order = "bysource"

# Names of other packages are links where the network is: on Read the Docs, or with HISDIFF_INTERSPHINX set. No package ships its
# inventory, so that elsewhere they stay plain text and pages are built without network.
ONLINE = any(os.environ.get(name) for name in ("READTHEDOCS", "HISDIFF_INTERSPHINX"))
if ONLINE:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "squidpy": ("https://squidpy.readthedocs.io/en/stable", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable", None),
    }
FULL_NAMES = {
    "AnnData": "anndata.AnnData",
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "Path": "pathlib.Path",
    "SpatialData": "spatialdata.SpatialData",
    "Tensor": "torch.Tensor",
    "csr_matrix": "scipy.sparse.csr_matrix",
    "np": "numpy",
    "pd": "pandas",
}
"""What the names in signatures are called in the inventories; of ``np.ndarray`` the first part."""

# A reference that leads nowhere is an error, but for names of other packages; each of the other exceptions has its reason beside it.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(np|numpy|pd|da|pathlib|collections\.abc|spatialdata|spatialdata_io|anndata)\..*"),
    (r"py:class", "|".join(FULL_NAMES)),
    (r"py:class", r"Polygon|MultiPolygon"),
    (
        r"py:class",
        r"Names|LibrarySize|Box|ImageSource|DenseSource|FeatureSource|M",
    ),  # aliases and protocols without a page
    (
        r"py:class",
        r"name|input_px|fitted|section|mean|image|Training curve",
    ),  # "a, b" in lists of attributes, read as types
    (r"py:func", r"get"),  # of the first line of a docstring, shown in a table on another page
]

html_theme = "sphinx_book_theme"
html_title = "hisdiff"
html_logo = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "show_navbar_depth": 1,
    "navbar_persistent": [],  # the search field of the sidebar is enough
}
if repository := os.environ.get("HISDIFF_REPOSITORY"):  # the one variable that says where the repository lives
    html_theme_options |= {
        "repository_url": repository,
        "use_repository_button": True,
        "use_issues_button": True,
        "path_to_docs": "docs",
    }
html_extra_path = ["llms.txt"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def copy_notebooks() -> None:
    """Bring the tutorials to where sphinx looks for them; they live outside ``docs`` so that users find them."""
    target = HERE / "tutorials"
    for old in target.glob("*.ipynb"):
        old.unlink()
    for notebook in sorted((HERE.parent / "tutorials").glob("*.ipynb")):
        shutil.copy2(notebook, target)


def by_full_name(app: Any, env: Any, node: Any, text: Any) -> None:
    """Give a reference the full name of what it means; what resolves it in inventories comes after."""
    first, dot, rest = node.get("reftarget", "").partition(".")
    if first in FULL_NAMES:
        node["reftarget"] = FULL_NAMES[first] + dot + rest


def setup(app: Any) -> None:
    """Register what Sphinx calls."""
    app.connect("missing-reference", by_full_name, priority=400)


copy_notebooks()
