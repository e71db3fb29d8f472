"""Reports as HTML pages: one file each, which asks for nothing from elsewhere and has no script.

`report`, `compare` and `where` choose what a page shows, `charts` computes where its marks are, and `templates/`
has the rest.
"""
