"""A rehearsal: a given number of orders over the real path on this machine, counted at the end.

`run.py` has the order of events: servers and processes (`cast.py`), a producer that plays the
customers (`producer.py`, `customers.py`), what is measured meanwhile (`sampling.py`) and shown
(`progress.py`), and what is found at the end (`verdict.py`) and drawn (`plot.py`).
"""
