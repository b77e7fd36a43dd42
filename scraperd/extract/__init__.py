"""Bytes become data. Pure as a folder: import-linter checks it.

May touch: contract, base.
Must never: do I/O, read a clock, or know an event loop.
"""
