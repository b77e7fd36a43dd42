"""`GET /v1/batches/ID`: how far a batch is.

May touch: the broker's client for questions.
Must never: keep what it was told for longer than a moment.
"""
