"""The life of one delivery, from bytes to ack.

May touch: page, broker, contract, config.
Must never: read the environment, install signal handlers, or exit.
"""
