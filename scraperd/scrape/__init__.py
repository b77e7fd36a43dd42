"""One Job becomes one Result: robots, turn, fetch, redirects, extraction.

May touch: every room of a page: fetch, politeness, extract, sandbox.
Must never: know AMQP, log, or settle anything.
"""
