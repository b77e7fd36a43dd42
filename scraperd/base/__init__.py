"""What any room may use: values without a job, a setting or I/O.

May touch: the standard library and small value libraries.
Must never: import anything else of ours.
"""
