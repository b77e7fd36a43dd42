"""Published conformance corpora, run through the functions that a job uses.

May touch: tests/data/conformance/, pure functions of the rooms.
Must never: take an expected value from scraperd.
"""
