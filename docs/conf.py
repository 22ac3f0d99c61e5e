"""The documentation as a site: `make docs` turns the Markdown of this folder into .cache/docs."""

from __future__ import annotations

project = "joulehouse"
author = "the authors of joulehouse"
project_copyright = author

extensions = ["myst_parser"]
exclude_patterns = ["requirements.txt", "examples"]
# Headings can be linked to as GitHub names them.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "joulehouse"
# A line of a terminal's table fits.
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--3)"}}
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
# A page shows which commands and fields there are, so `--` stays as it is typed.
smartquotes = False
# Study files and shells are shown as they are where a lexer knows no better.
highlight_language = "none"
