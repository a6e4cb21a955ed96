"""What stands in for the outside world on one machine: servers, a gateway, a mail catcher.

Nothing in orderflow imports this but the commands `up` and `rehearse`, the tests and the benchmarks.
"""
