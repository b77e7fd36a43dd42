"""Published conformance corpora, run through the functions that a job uses.

May touch: tests/data/conformance/, functions of the rooms, sites on loopback.
Must never: take an expected value from scraperd.
"""
