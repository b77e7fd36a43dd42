"""Every setting: its value, where it is read, and what no type can say of it.

May touch: base; the file and the environment it is given.
Must never: know a room that is configured.
"""
