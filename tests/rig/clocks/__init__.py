"""Time in tests: hours that pass at once, clocks that jump, bounds for a busy machine.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
