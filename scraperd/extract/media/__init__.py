"""What a document is: by its Content-Type, or else by its first bytes. Pure.

May touch: header values and bytes.
Must never: raise for what a site sends, or look further than the standards say.
"""
