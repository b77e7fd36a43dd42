"""Where extraction runs: on the event loop if that is provably cheap, else in a limited process.

May touch: extract, config, base; processes of its own.
Must never: fetch anything.
"""
