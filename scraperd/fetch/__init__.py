"""One request goes out; one bounded response or a Failure comes back.

May touch: the network, contract, config, base.
Must never: know AMQP, log, or decide whether and when to fetch.
"""
