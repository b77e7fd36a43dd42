"""Rows in which the daemon is killed or ended, or its machine is at fault.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
