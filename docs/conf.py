"""Settings of the documentation's site; ``make docs`` builds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

import links

from poyo_ssl_plugin import __version__

# What notebooks call: the commands of this environment, the examples of this clone, one thread, wide enough tables.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["DOCS_EXAMPLES"] = str(Path(__file__).parents[1] / "examples")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "110"

project = "poyo_ssl_plugin"
author = "the authors of poyo_ssl_plugin"
copyright = f"2026, {author}"  # Sphinx's name
version = release = __version__
language = "en"
# Options of commands begin with two hyphens, not with a dash.
smartquotes = False

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "links",
    "mathml",
    "reference_pages",
]
exclude_patterns = ["_build", "_sphinx", "figures", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

# Pages are MyST; notebooks are MyST pages with a jupytext header, run at every build.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("DOCS_NOTEBOOKS", "cache")
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "notebooks")
nb_execution_timeout = 480  # of a cell, on a busy machine
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# What a method of Lightning is for is in Lightning's docs, whose labels are not here.
autodoc_inherit_docstrings = False
autodoc_default_options = {"exclude-members": "set_score_request"}
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
# Every reference leads somewhere; of others' pages links.py has what the site refers to, so nothing is fetched.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(.*\._\w+|dict\[str|collections\.abc\.Mapping\[str|np\.ndarray|pd\.DataFrame)"),
    # Types in signatures that are nobody's to make.
    (
        "py:class",
        r"poyo_ssl_plugin\.\w+\.\w+\.(Activity|PlannedDifference|Scorer|TransferModule)"
        r"|poyo_ssl_plugin\.plain\.Batch|(Backend|Columns|ReadOnlyValues|Scored)|h5py\.Dataset",
    ),
]
intersphinx_mapping = links.intersphinx_mapping()

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "poyo_ssl_plugin"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
html_sidebars = {"index": [], "faq": [], "changes": []}
