"""Reading a catalogue."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tests.conftest import CATALOGUE

from orderflow.errors import InvalidCatalogue
from orderflow.products import Product, read_catalogue

HEADER = "sku,name,price,currency,stock\n"


def test_the_small_catalogue_is_usable():
    products = read_catalogue(CATALOGUE)
    assert len(products) == 5
    assert products[0] == Product(
        sku="tea-assam", name="Assam tea 250 g", price=Decimal("8.90"), currency="EUR"
    )
    assert products[2].stock == 500


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sku,price\n", "line 1: its columns must be sku,name,price,currency,stock"),
        ("", "line 1: its columns must be"),
        (HEADER + "tea,Tea,1.00,EUR\n", "line 2: it must have 5 columns"),
        (HEADER + "tea,Tea,1.00,EUR,1,2\n", "line 2: it must have 5 columns"),
        (HEADER + "a,A,1.00,EUR,\ntea,Tea,-1,EUR,\n", "line 3: price: Input should be greater"),
        (
            HEADER + "tea,Tea,1.005,EUR,\n",
            "line 2: price: Decimal input should have no more than 2",
        ),
        (HEADER + "tea,,1,EU,x\n", "line 2: name: .*; currency: .*; stock: "),
    ],
)
def test_a_fault_is_told_by_line_and_column(tmp_path, text, fault):
    file = tmp_path / "catalogue.csv"
    file.write_text(text)
    with pytest.raises(InvalidCatalogue, match=fault):
        read_catalogue(file)
