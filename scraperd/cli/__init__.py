"""The command line: one file a command.

May touch: everything below, the terminal, the exit code.
Must never: hold anything that the daemon needs.
"""
