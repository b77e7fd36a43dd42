"""What a process says of itself when `scraperd status` asks: the values, and how all are asked.

May touch: the records of jobs, the broker.
Must never: hold a credential, or the URL of a job.
"""
