"""The tests, and the rig that gives them real servers.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
