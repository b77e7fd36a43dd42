"""Rows in which the broker, its queues or the way to it are at fault.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
