"""What a job's callback is while the job lives: whether it is allowed, and its message.

May touch: contract, signing.
Must never: send anything.
"""
