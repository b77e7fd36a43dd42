"""The dashboard of the gateway: a page, what it shows, and what an operator may do by it.

May touch: the fleet's answers, copies of results, the operator's desk, the gateway's routes.
Must never: ask the broker while nobody looks, or hold a job up.
"""
