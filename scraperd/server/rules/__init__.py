"""`DELETE /v1/jobs/ID` and `DELETE /v1/batches/ID`: jobs are cancelled over HTTP.

May touch: the desk of rules.
Must never: set another rule.
"""
