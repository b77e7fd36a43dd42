"""Who may ask the gateway, and for how long.

May touch: what its files say.
Must never: answer a request.
"""
