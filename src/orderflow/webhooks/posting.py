"""One attempt: a message is posted, and what came of it is told in a few words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import httpx

from orderflow import __version__
from orderflow.errors import WebhookUrlRefused
from orderflow.operations.masking import mask_text
from orderflow.retry_after import retry_after_s

#: Longest that an attempt takes, in seconds: its connection, and all of it.
CONNECT_S, TOTAL_S = 5.0, 15.0
#: Of an answer so many bytes are read, and so many characters kept.
_READ, _KEPT = 16_384, 1_000
_LONGEST_ERROR = 300

_TIMEOUTS = httpx.Timeout(TOTAL_S, connect=CONNECT_S).as_dict()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt: a status code with the answer's beginning, or an error."""

    status_code: int | None
    error: str | None
    text: str
    took_ms: int
    #: How long the endpoint asks to be left alone.
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether the endpoint took it."""
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint wants nothing any more."""
        return self.status_code == httpx.codes.GONE


async def post(
    transport: httpx.AsyncBaseTransport, url: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """Post a message, and return what came of it. A redirect is an answer like any other."""
    started = time.perf_counter()

    def answer(
        status: int | None, error: str | None, text: str = "", wait_s: float = 0.0
    ) -> Answer:
        took_ms = round((time.perf_counter() - started) * 1000)
        return Answer(status, error, text, took_ms, wait_s)

    # Not by a client: it would keep cookies of one endpoint and show them to another.
    request = httpx.Request(
        "POST",
        url,
        headers={**_HEADERS, **headers},
        content=body,
        extensions={"timeout": _TIMEOUTS},
    )
    try:
        async with asyncio.timeout(TOTAL_S):
            response = await transport.handle_async_request(request)
            try:
                text = await _beginning(response)
            finally:
                await response.aclose()
    except TimeoutError:
        return answer(None, f"no answer within {TOTAL_S:g} s")
    except WebhookUrlRefused as error:
        return answer(None, str(error))
    except httpx.HTTPError as error:
        said = mask_text(f"{type(error).__name__}: {error}".removesuffix(": "))
        return answer(None, said[:_LONGEST_ERROR])
    wait_s = retry_after_s(response.headers, datetime.now(UTC))
    return answer(response.status_code, None, text, wait_s)


_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": f"orderflow/{__version__}",
    "Accept-Encoding": "identity",  # a small answer could unpack to a large one
}


async def _beginning(response: httpx.Response) -> str:
    """Read what will do to see what the answer says."""
    read = b""
    async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as chunks:
        async for chunk in chunks:
            read += chunk
            if len(read) >= _READ:
                break
    text = mask_text(read[:_READ].decode("utf-8", "replace"))
    return "".join(char if char.isprintable() else " " for char in text)[:_KEPT].strip()
