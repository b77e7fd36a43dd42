"""A Job becomes a Result.

May touch: the web, the contract, the config's values.
Must never: know AMQP, metrics or logging; what happened travels in the Result.
"""
