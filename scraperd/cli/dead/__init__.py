"""The commands `scraperd dead ...`: one file a command.

May touch: the dead letters, the terminal, the exit code.
Must never: print an untrusted text as it came, or remove anything that nobody agreed to.
"""
