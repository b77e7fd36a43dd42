"""The fixtures of tests/rig/page, for this room.

May touch: those fixtures.
Must never: define another.
"""

from tests.rig.page import *  # noqa: F403 - pytest finds fixtures by their names
