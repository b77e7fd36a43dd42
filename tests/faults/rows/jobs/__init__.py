"""Rows in which messages and letters are at fault.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
