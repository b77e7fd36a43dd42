"""The commands that set rules at run time, and list them.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: import what only one of them needs.
"""
