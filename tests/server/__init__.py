"""Tests of the gateway `scraperd serve`.

May touch: the gateway as a subprocess, a private broker, the rooms' own functions.
Must never: look into the gateway's process; it is used as a client would.
"""
