"""The rows: one function a fault, in a folder by what is at fault.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
