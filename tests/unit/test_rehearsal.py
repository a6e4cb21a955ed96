"""What a rehearsal reckons with: its customers, its mark, its samples and their sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orderflow.sandbox.rehearsal.customers import USERS, Customers, products
from orderflow.sandbox.rehearsal.producer import Mark, read_count
from orderflow.sandbox.rehearsal.sampling import Depth, Sample, Samples, percentile
from orderflow.sandbox.rehearsal.verdict import (
    GROWTH_LIMIT_BYTES,
    REDIS_LIMIT_BYTES,
    check_memory,
    check_queues,
    check_stalled,
    measure_memory,
)

SAMPLE = Sample(
    sitting=1,
    elapsed_s=0.0,
    placed=0,
    paid=0,
    notified=0,
    queues={"payment-processing": Depth(1, 2, 3, 4)},
    redis_bytes=1_000,
    redis_peak_bytes=2_000,
    rss_bytes={"payment": 100, "redis": 10},
    latency_p50_ms=None,
    latency_p99_ms=None,
)


@pytest.fixture(scope="module")
def customers() -> Customers:
    return Customers()


def test_an_order_is_the_same_whenever_it_is_asked(customers: Customers):
    others = Customers()
    for number in (0, 6_001, 4_999_999):
        assert customers.order(number) == others.order(number)


def test_orders_differ_in_key_and_come_from_many_users(customers: Customers):
    orders = [customers.order(number) for number in range(10_000)]
    assert len({key.key for _, _, key in orders}) == 10_000
    assert len({user for _, user, _ in orders}) == 10_000 < USERS


def test_carts_hold_one_to_three_products_that_the_shop_has(customers: Customers):
    shelf = {product.sku: product for product in products()}
    carts = [customers.order(number)[0].quantities() for number in range(100)]
    assert {len(cart) for cart in carts} == {1, 2, 3}
    assert {sku for cart in carts for sku in cart} <= shelf.keys()
    counted = [any(shelf[sku].stock is not None for sku in cart) for cart in carts]
    assert any(counted)
    assert not all(counted)


def test_a_mark_stands_before_the_first_order_that_is_not_placed(tmp_path: Path):
    path = tmp_path / "placed"
    assert read_count(path) == 0
    mark = Mark(path)
    for number in (0, 1, 3, 4):
        mark.placed(number)
    mark.close()
    assert read_count(path) == 4

    again = Mark(path)
    assert again.number == 2
    for number in (3, 2, 4):
        again.placed(number)
    again.close()
    assert again.number == read_count(path) == 5


def test_samples_are_kept_for_the_next_sitting(tmp_path: Path):
    path = tmp_path / "samples.jsonl"
    samples = Samples(path)
    assert samples.last is None
    samples.add(SAMPLE)
    with path.open("a") as file:
        file.write('{"sitting": 1, "elap')
    assert Samples(path).all == [SAMPLE]


@pytest.mark.parametrize(
    ("ordered", "percent", "value"),
    [([], 50, None), ([7], 99, 7), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 99, 99)],
)
def test_percentiles(ordered: list[int], percent: int, value: int | None):
    assert percentile(ordered, percent) == value


def grown(by: int) -> list[Sample]:
    """Return a second sitting in which `payment` grows, after an early second of start."""
    sizes = [0, *(by * second // 99 for second in range(100))]
    return [
        replace(SAMPLE, sitting=1, elapsed_s=5.0, rss_bytes={"payment": 10**12}),
        *(
            replace(SAMPLE, sitting=2, elapsed_s=10.0 + n, rss_bytes={"payment": size})
            for n, size in enumerate(sizes)
        ),
    ]


def test_growth_is_from_a_tenth_of_the_last_sitting_on():
    [(name, memory)] = measure_memory(grown(990)).items()
    assert (name, memory.peak_bytes, memory.growth_bytes) == ("payment", 10**12, 990 - 90)


@pytest.mark.parametrize(
    ("by", "ok"), [(GROWTH_LIMIT_BYTES, True), (GROWTH_LIMIT_BYTES * 2, False)]
)
def test_a_process_that_grows_with_the_orders_is_found(by: int, ok: bool):
    samples = grown(by)
    checks = check_memory(samples, measure_memory(samples))
    assert [check.ok for check in checks] == [True, ok]
    assert checks[1].message.startswith("payment grew by ")


def test_redis_over_its_bound_is_found():
    samples = [replace(SAMPLE, redis_peak_bytes=REDIS_LIMIT_BYTES + 1), SAMPLE]
    checks = check_memory(samples, measure_memory(samples))
    assert [check.name for check in checks if not check.ok] == ["redis memory"]


def test_a_job_that_is_left_is_found():
    [left, empty] = check_queues({"a": Depth(0, 0, 0, 1), "b": Depth(0, 0, 0, 0)})
    assert (left.ok, empty.ok) == (False, True)
    assert "1 failed" in left.message


@pytest.mark.parametrize(
    ("stalled", "sittings", "ok"), [(0, 1, True), (1, 1, False), (1, 2, True), (0, 2, True)]
)
def test_a_job_found_stalled_counts_where_nothing_crashed(stalled: int, sittings: int, ok: bool):
    check = check_stalled(stalled, sittings)
    assert (check.ok, check.message) == (ok, f"{stalled} jobs found stalled")
