"""What a job says to the tally of its batch: a note on its outcome.

May touch: contract, signing.
Must never: count.
"""
