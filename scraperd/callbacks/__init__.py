"""Results that are POSTed: signed, sent, tried again for days, and dead with their reason.

May touch: the ports of a broker, what fetches pages, the notes of jobs.
Must never: hold up a job, follow a redirect, or say a secret.
"""
