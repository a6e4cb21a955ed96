"""The operators' page at /admin: what the shop does just now, and what to do about it."""
