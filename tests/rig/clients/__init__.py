"""AMQP clients of other languages, each with what runs it, and none of them installed.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
