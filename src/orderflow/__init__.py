"""orderflow takes checkouts over HTTP and carries every order to its end in the background."""

__version__ = "1.0.0"
