"""When a webhook that failed is tried again: soon at first, then more and more rarely, for days."""

from __future__ import annotations

import random

_MIN, _H = 60.0, 3_600.0

#: Seconds after the first failure, the second, and so on: three days in all.
DELAYS_S = (*(5.0, 5 * _MIN, 30 * _MIN, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H),)
_JITTER = 0.1
#: An endpoint may ask to be left alone for so long, and not longer.
_LONGEST_S = 24 * _H


def next_try_s(failed: int, retry_after_s: float = 0.0) -> float | None:
    """Return in how many seconds to try again after so many failures; None: not any more.

    Never sooner than the endpoint asks for. What failed together does not come again together.
    """
    if failed > len(DELAYS_S):
        return None
    delay_s = DELAYS_S[failed - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
    return max(delay_s, min(retry_after_s, _LONGEST_S))
