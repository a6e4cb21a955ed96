"""What operators see and do: queues, jobs, failures, orders, workers, and who did what.

The API under `/admin/api`, the command line and the page all call these. What they return is
masked: no secret and nothing of a customer but ids leaves this package. Every action takes an
`Actor`, and leaves a row in the audit log before it begins and another when it has ended.

All functions raise DatabaseUnavailable while PostgreSQL is away, and redis.RedisError while Redis
is.
"""
