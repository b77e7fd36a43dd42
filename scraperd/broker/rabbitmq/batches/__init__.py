"""The queue of batches: its deliveries to one process at a time, on a connection of its own.

May touch: connections of `wire`.
Must never: know what a note says, or touch a delivery of a job.
"""
