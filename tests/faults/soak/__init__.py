"""The soak: random faults for half an hour under load, and flat memory.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
