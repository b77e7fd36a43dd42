"""The stream that holds the rules of a fleet: followed by each daemon, written by one at a time.

May touch: connections of its own.
Must never: know what a rule says.
"""
