"""The fault bench: the real daemon under faults, and a count of what became of each job.

May touch: private brokers, sites and daemons of its own, all on loopback.
Must never: change what the daemon does, or call a row good that lost a job.
"""
