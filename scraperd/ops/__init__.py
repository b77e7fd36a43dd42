"""What people and probes are told.

May touch: the records of other rooms, systemd's socket.
Must never: change what becomes of a job.
"""
