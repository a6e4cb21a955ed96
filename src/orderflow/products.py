"""The catalogue: what the shop sells, at which price, and how many are left."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orderflow.checkout_body import Line, Sku
from orderflow.db import Database
from orderflow.errors import InvalidCatalogue

COLUMNS = ("sku", "name", "price", "currency", "stock")


class Product(BaseModel):
    """One product. A `stock` of None is not counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sku: Sku
    name: Line
    price: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    stock: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None


def read_catalogue(path: Path) -> list[Product]:
    """Read a CSV file with the columns sku, name, price, currency, stock (empty: not counted).

    Raises InvalidCatalogue that names the line, the column and the rule.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise InvalidCatalogue(
                path=path, line=1, reason=f"its columns must be {','.join(COLUMNS)}"
            )
        return [_read(path, line, row) for line, row in enumerate(rows, start=2)]


def _read(path: Path, line: int, row: dict[str | None, str | None]) -> Product:
    # DictReader's ways of saying that a line has more columns, or fewer.
    if None in row or None in row.values():
        raise InvalidCatalogue(path=path, line=line, reason=f"it must have {len(COLUMNS)} columns")
    try:
        return Product.model_validate({**row, "stock": row["stock"] or None})
    except ValidationError as error:
        faults = [f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors()]
        raise InvalidCatalogue(path=path, line=line, reason="; ".join(faults)) from None


async def has_products(db: Database) -> bool:
    """Say whether the shop sells anything yet."""
    return await db.fetchrow("any_product") is not None


async def load_products(products: Iterable[Product], db: Database) -> int:
    """Write the products, all or none, over those with the same sku; return how many."""
    count = 0
    async with db.transaction() as transaction:
        for product in products:
            await transaction.fetchrow(
                "upsert_product",
                product.sku,
                product.name,
                product.price,
                product.currency,
                product.stock,
            )
            count += 1
    return count
