"""One file per kind of measurement; each gives `Row`s by name."""
