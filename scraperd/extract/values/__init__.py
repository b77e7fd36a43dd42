"""Texts become typed values. Pure.

May touch: texts.
Must never: guess: a text has one reading, or none.
"""
