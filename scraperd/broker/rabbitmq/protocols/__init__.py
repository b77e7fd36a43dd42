"""What messages bear that were published by RabbitMQ's other protocols: AMQP 1.0, STOMP, MQTT.

May touch: bytes and names. Pure.
Must never: know what a job is.
"""
