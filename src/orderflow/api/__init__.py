"""The HTTP API: checkout, orders, health and their reference, on Starlette."""
