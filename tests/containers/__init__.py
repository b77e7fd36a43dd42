"""Tests of the image and of the Helm chart.

May touch: the checkout's .cache/, chroots and processes that they start.
Must never: reach a cluster.
"""
