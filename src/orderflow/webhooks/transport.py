"""A transport of httpx that connects to addresses that were looked at, and to no others."""

from __future__ import annotations

import ssl

import httpx

from orderflow.webhooks.targets import Targets, host_of, port_of

#: Connections to one host that are kept open, and for how long.
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=5)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends each request to one of the addresses that `targets` allows for its host.

    Certificates are checked by the host's name, as always. Raises WebhookUrlRefused, or what httpx
    raises.
    """

    def __init__(self, targets: Targets, verify: ssl.SSLContext | None = None) -> None:
        self._targets = targets
        self._verify = verify or httpx.create_ssl_context()
        # One for each host: a connection to an address is for the host that it was made for, and
        # another one there may have shown another certificate.
        self._of_host: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, to the next address where one cannot be connected to."""
        host = host_of(request.url)
        addresses = await self._targets.addresses(host, port_of(request.url))
        for address in addresses[:-1]:
            try:
                return await self._send(request, host, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._send(request, host, addresses[-1])

    async def _send(self, request: httpx.Request, host: str, address: str) -> httpx.Response:
        transport = self._of_host.get(host)
        if transport is None:
            transport = self._of_host[host] = httpx.AsyncHTTPTransport(
                verify=self._verify, limits=_LIMITS, trust_env=False
            )
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await transport.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._of_host.values():
            await transport.aclose()
