"""What `scraperd check` asks a broker: what is there, and what the user may do with it.

May touch: a connection of its own.
Must never: create, change, publish or take anything.
"""
