"""Private RabbitMQ nodes and clusters, and a proxy that reads what is said to them.

May touch: nothing. This file only makes the folder a package.
Must never: hold code.
"""
