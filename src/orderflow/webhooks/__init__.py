"""Webhooks: a shop's own systems are told what became of an order, as Standard Webhooks has it.

A delivery is a row, written by the statement that changes the order, for each endpoint that wants
to be told. `courier.py` carries them out, in every process of the order worker. What comes in, from
a gateway, is `gateway_events.py` and none of this.
"""
