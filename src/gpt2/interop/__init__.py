"""Models out into other programs' formats and in from theirs, each compared with an independent reader."""
