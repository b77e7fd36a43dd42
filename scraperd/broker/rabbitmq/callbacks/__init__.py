"""The queue of callbacks: its deliveries on a connection of their own, and what leaves it.

May touch: connections of `wire`.
Must never: read a callback, or touch a delivery of a job.
"""
