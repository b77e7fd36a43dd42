"""The operator's desk: dead letters looked at, saved, requeued, removed.

May touch: the dead queue, contract, config.
Must never: decide anything for the daemon.
"""
