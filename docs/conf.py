"""How Sphinx makes a site of these pages, which scripts/docs lays out for it; nothing is fetched, then or later."""

project = "fedssh"
author = "the authors of fedssh"
project_copyright = "the authors of fedssh, Apache-2.0"

extensions = ["myst_parser"]
myst_heading_anchors = 6  # named as Git hosts name them
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = "fedssh"
html_copy_source = False
html_show_sourcelink = False
smartquotes = False
highlight_language = "none"
