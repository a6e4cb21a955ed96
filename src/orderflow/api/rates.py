"""How often one user, or one address, may place an order."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from orderflow.api.problems import Kind, Problem
from orderflow.setting_types import RequestRate

_MOST_CALLERS = 10_000


class Rates:
    """A token bucket for each caller, in this process: Redis may be away, and need not be asked.

    Of the callers those that were seen last are remembered. `who` tells which of them are one. With
    `rate` None nobody is counted.
    """

    def __init__(self, rate: RequestRate | None, who: Callable[[str], str] = str) -> None:
        self._rate = rate
        self._who = who
        #: When each caller's bucket is full again; what is not full is spent.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def count(self, caller: str) -> None:
        """Count one request. Raises Problem if the caller has had as many as it may."""
        if self._rate is None:
            return
        caller = self._who(caller)
        now = time.monotonic()
        each_s = self._rate.seconds / self._rate.max
        full_at = max(self._full_at.get(caller, now), now) + each_s
        wait_s = full_at - now - self._rate.seconds
        # A thousandth of a request is no reason to refuse one, and sums of fractions are that off.
        if wait_s > each_s / 1_000:
            raise Problem(
                Kind.TOO_MANY_REQUESTS,
                f"At most {self._rate.max} in {self._rate.seconds} s; nothing was ordered.",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > _MOST_CALLERS:
            self._full_at.popitem(last=False)


def network_of(address: str) -> str:
    """Return the address, or of IPv6 the network that one caller has all addresses of."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip.packed, 64), strict=False))
