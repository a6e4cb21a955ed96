"""What stands in for the outside world on one machine: servers, a gateway, a mail catcher.

Nothing in orderflow imports this but its commands `up` and `rehearse`; tests and benchmarks do.
"""
