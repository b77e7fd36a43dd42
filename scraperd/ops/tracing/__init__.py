"""The spans of jobs, made and sent by OpenTelemetry's SDK; imported only if they are to be sent.

May touch: opentelemetry and its requests, which only this room imports.
Must never: let the loop wait for a collector.
"""
