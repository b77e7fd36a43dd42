"""What `make check`, `make quick` and `make mutate` run on the checkout.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
