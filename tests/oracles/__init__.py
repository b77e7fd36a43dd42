"""The oracles: what a page holds and what a search of it costs, by other means than the daemon's.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
