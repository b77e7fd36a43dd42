"""Web servers, nameservers, proxies and the pages that they serve.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
