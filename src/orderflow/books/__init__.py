"""The books: what the gateway has of charges and refunds, beside what we have.

The gateway lists what moved money; each entry is looked up here by its key. What we have of the
same time and is not in the list is asked about by its key before it is called missing. Put right is
only what is certain: an outcome that nobody wrote down, and a stray charge that nobody recorded.
Whether money is given back, a person decides.
"""

from orderflow.books.compare import compare_books
from orderflow.books.differences import Comparison, Difference, DifferenceKind, open_differences
from orderflow.books.sides import GRACE
from orderflow.books.strays import refund_strays

__all__ = [
    "GRACE",
    "Comparison",
    "Difference",
    "DifferenceKind",
    "compare_books",
    "open_differences",
    "refund_strays",
]
