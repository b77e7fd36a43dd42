"""One connection and what travels on it: dialled, read, written, held back.

May touch: sockets; pamqp, for the commands.
Must never: know queues by their meaning.
"""
