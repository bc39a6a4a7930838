"""The field's tools, each behind the few calls that a row needs."""
