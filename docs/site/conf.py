"""The site that `make docs` builds: the pages in Markdown, and the reference from docstrings."""

import hf_semicrf

project = "hf_semicrf"
author = copyright = "The hf_semicrf authors"
version = release = hf_semicrf.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/*.md", "docs/site/*.md", "model_cards/*.md"]
exclude_patterns = ["model_cards/template.md", ".*", "build"]

myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

default_role = "py:obj"  # `name` in a docstring links where there is a page for it
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"hf_semicrf {version}"
html_copy_source = False
html_extra_path = ["index.html"]
html_static_path = ["static"]
html_css_files = ["wide.css"]


def setup(app):
    """Leave out what Python says of every field of a NamedTuple."""
    app.connect(
        "autodoc-skip-member",
        lambda app, what, name, member, skip, options: (
            skip or str(member.__doc__).startswith("Alias for field number")
        ),
    )
