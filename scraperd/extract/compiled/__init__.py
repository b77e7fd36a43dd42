"""An optional compiled tree: a page parsed by lexbor under bounds that are checked at each token.

May touch: lexbor, and in tree.pyx the processor time of the thread. Pure otherwise.
Must never: be needed. Without the compiled file all gives the same results, more slowly.
"""
