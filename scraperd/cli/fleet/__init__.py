"""The commands that ask all daemons of a prefix: `status`, `host`, `top`.

May touch: the broker, the terminal, the exit code.
Must never: change anything.
"""
