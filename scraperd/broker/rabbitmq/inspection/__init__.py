"""What a broker is asked of our queues and permissions: by the start, and by `scraperd check`.

May touch: a connection of its own; RabbitMQ's management API, by GET.
Must never: create, change, publish or take anything, or judge a job.
"""
