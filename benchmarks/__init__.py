"""Measurements: is every page extracted rightly, and how fast.

May touch: private servers of their own, the manuals in .cache/.
Must never: be imported by the daemon.
"""
