"""The bytes of AMQP 0-9-1 and their values, both ways. Pure.

May touch: bytes and values.
Must never: know in which state a connection is.
"""
