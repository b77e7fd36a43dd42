"""Bytes become text, as browsers read them. Pure.

May touch: bytes, and what the response says of them.
Must never: raise for what a page holds.
"""
