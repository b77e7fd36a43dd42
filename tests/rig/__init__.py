"""The rig: real servers and real pages for the tests, the demo and the benchmarks.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
