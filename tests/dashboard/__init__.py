"""Tests of the dashboard: in a browser, and by plain requests.

May touch: a headless Chromium, the gateway and daemons as subprocesses, a private broker.
Must never: look into the gateway's process, or reach another machine.
"""
