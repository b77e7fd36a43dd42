"""The transport over RabbitMQ. The only folder that imports aio_pika, aiormq and pamqp.

May touch: those, config, base.
Must never: know pages or jobs.
"""
