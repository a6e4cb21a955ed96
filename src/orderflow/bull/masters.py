"""The servers that the queues are on: one, or the masters of a cluster that have some of them."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from orderflow.bull.adding import AddingQueues


async def masters_of(queues: AddingQueues) -> dict[str, Redis]:
    """Return a connection to each server that has a queue of the contract, by its address.

    One Redis needs no address: it is empty. Raises redis.RedisError.
    """
    clients = queues.clients()
    if len(clients) == 1:
        return {"": clients[0]}
    # Several prefixes may be on the same master.
    seen = await asyncio.gather(*(client.client_info() for client in clients))
    return {str(info["laddr"]): client for info, client in zip(seen, clients, strict=True)}
