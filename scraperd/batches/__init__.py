"""The tally of batches: which jobs of each have their outcome, kept in a queue of the broker.

May touch: jobs, for what a note is; the ports of a broker; contract.
Must never: know a transport, or hold up a job.
"""
