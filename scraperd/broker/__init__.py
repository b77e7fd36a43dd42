"""Everything that touches AMQP. Moves bytes and properties.

May touch: aio_pika and aiormq, which no other package imports.
Must never: decode a job or a result.
"""
