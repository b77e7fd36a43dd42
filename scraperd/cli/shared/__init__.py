"""What several commands use.

May touch: everything below the command line, the terminal, the exit code.
Must never: know a command.
"""
