"""What ends a row before its time."""

from __future__ import annotations


class RowAborted(Exception):
    """A row cannot be measured, or its work was not done; the message says what is wrong."""
