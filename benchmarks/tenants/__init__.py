"""One innocent tenant beside one attacker at a time: the bench, its attacks, its sites.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
