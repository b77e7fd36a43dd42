"""The HTTP gateway: jobs submitted over HTTP, published to the broker, and their results.

May touch: aiohttp's server, the broker's client, the contract, the sandbox that compiles rules.
Must never: fetch a page, keep a job, or answer 202 for a job that the broker has not confirmed.
"""
