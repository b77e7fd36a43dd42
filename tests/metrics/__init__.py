"""Tests of metrics, health and alerts, by the real daemon and by Prometheus's own tools.

May touch: what each of its files names.
Must never: hold code.
"""
