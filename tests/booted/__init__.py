"""Tests of the package and the units on a Debian that boots; `make test-systemd` runs them.

May touch: a tree in .cache/, booted with namespaces of its own.
Must never: be a part of `make test`: they take minutes.
"""
