"""How views are drawn: colours, page, shapes, files."""
