"""The cookies of one job: what a line says, where a cookie goes, which domains are no one's own.

May touch: the contract's values, and the list of public suffixes on disk.
Must never: outlive its job, but for that list.
"""
