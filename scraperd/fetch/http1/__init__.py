"""HTTP/1.1: a response is read, a request is written, both in the time that the loop has.

May touch: what each file of this folder says.
Must never: hold code here.
"""
