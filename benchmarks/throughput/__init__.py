"""`make bench`: scraperd and other workers side by side, on one machine in one run.

May touch: the stage's private servers, the processes it starts, .cache/bench/.
Must never: compare figures of different runs.
"""
