"""What AMQP does not tell of our queues: policies, arguments and bindings, asked for and judged.

May touch: RabbitMQ's management API, by GET; the broker, to declare what exists already.
Must never: create or change anything, or judge a job.
"""
