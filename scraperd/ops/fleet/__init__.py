"""What a process says of itself when `scraperd status` asks: the values, and what they are made of.

May touch: the records of jobs.
Must never: hold a credential, or the URL of a job.
"""
