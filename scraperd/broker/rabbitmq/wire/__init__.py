"""One connection and what travels on it: dialled, decoded, sliced, held back.

May touch: aiormq, pamqp, sockets.
Must never: know queues by their meaning.
"""
