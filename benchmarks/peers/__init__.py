"""Workers that others would write instead of scraperd, to measure the daemon by.

May touch: the queues, the pages and the files that their environment names.
Must never: import scraperd or the rest of the benchmarks.
"""
