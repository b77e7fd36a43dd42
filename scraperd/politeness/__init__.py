"""Whether a page may be fetched, and when.

May touch: fetch (for robots.txt), contract, config, base.
Must never: know AMQP, log, or read a page.
"""
