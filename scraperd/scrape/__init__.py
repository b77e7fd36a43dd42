"""One Job becomes one Result: robots, permit, fetch, redirects, extraction.

May touch: every room of a page: fetch, politeness, extract, sandbox.
Must never: know AMQP, log, or settle anything.
"""
