"""The commands `scraperd callbacks ...`: one file a command.

May touch: the dead callbacks, the terminal, the exit code.
Must never: print an untrusted text as it came, or remove anything without a yes.
"""
