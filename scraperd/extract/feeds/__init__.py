"""Feeds and sitemaps become data. Pure.

May touch: bytes and lxml.
Must never: load what a document refers to.
"""
