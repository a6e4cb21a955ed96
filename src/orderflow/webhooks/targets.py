"""Where a webhook may go: over https to a public address, and to no server of the shop's own.

Whoever adds an endpoint names an address that the worker then calls from inside of the network. So
a name is resolved here, every address that it has must be public, and the connection goes to one of
those that were looked at: a name that leads elsewhere a moment later leads nowhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from orderflow.errors import WebhookUrlRefused

#: Returns the addresses of a host. Raises OSError where it has none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

PORTS = (443, 8443)
MOST_CHARACTERS = 2_000
_RESOLVED_WITHIN_S = 5.0

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: An IPv4 address in its last bits: how a host that has IPv6 alone reaches it.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system has of a host."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Say whether an address is one of the public Internet, wherever it is looked at from."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        # Tunnels, which hold an address too, lead nowhere that a shop's system is.
        tunnel = found.sixtofour is not None or found.teredo is not None
        return found.is_global and found in _GLOBAL_UNICAST and not tunnel
    return found.is_global and not found.is_multicast and not found.is_reserved


@dataclass(frozen=True, slots=True)
class Targets:
    """What is allowed. With `allow_private` every server that can be reached is."""

    allow_private: bool = False
    resolve: Resolve = resolve_host

    async def check(self, url: str) -> httpx.URL:
        """Return the URL of an endpoint, if webhooks may go there. Raises WebhookUrlRefused."""
        found = self._read(url)
        await self.addresses(host_of(found), port_of(found))
        return found

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses that a host has now. Raises WebhookUrlRefused unless all may be."""
        try:
            async with asyncio.timeout(_RESOLVED_WITHIN_S):
                found = await self.resolve(host, port)
        except (OSError, UnicodeError) as error:
            reason = f"its address cannot be found, {type(error).__name__}"
            raise WebhookUrlRefused(host=host, reason=reason) from None
        if not found:
            raise WebhookUrlRefused(host=host, reason="it has no address")
        private = [address for address in found if not is_public(address)]
        if private and not self.allow_private:
            reason = f"its address {private[0]} is not a public one"
            raise WebhookUrlRefused(host=host, reason=reason)
        return found

    def _read(self, url: str) -> httpx.URL:
        if len(url) > MOST_CHARACTERS:
            raise WebhookUrlRefused(
                host=url[:40] + "…", reason=f"a URL may have {MOST_CHARACTERS:,} characters at most"
            )
        try:
            found = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise WebhookUrlRefused(host="…", reason="it is not a URL that can be read") from None
        reason = self._fault(found)
        if reason:
            raise WebhookUrlRefused(host=host_of(found) or "…", reason=reason)
        return found

    def _fault(self, url: httpx.URL) -> str | None:
        schemes = ("https", "http") if self.allow_private else ("https",)
        if url.scheme not in schemes:
            return f"its scheme must be {' or '.join(schemes)}"
        if not url.host:
            return "it names no host"
        if url.userinfo or url.fragment:
            return "it must have no user, password or fragment"
        if port_of(url) not in PORTS and not self.allow_private:
            return f"its port must be {' or '.join(map(str, PORTS))}"
        return None


def host_of(url: httpx.URL) -> str:
    """Return the host as it is resolved and as certificates name it."""
    return url.raw_host.decode("ascii")


def port_of(url: httpx.URL) -> int:
    """Return the port, also where the URL leaves it to the scheme."""
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80
