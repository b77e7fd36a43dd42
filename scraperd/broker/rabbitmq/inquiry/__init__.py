"""Questions to all daemons of a prefix, over a fanout exchange, and their answers.

May touch: a connection of its own.
Must never: know what is asked, or stand in the way of a job.
"""
