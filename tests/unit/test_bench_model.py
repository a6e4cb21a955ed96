"""The arithmetic of the benchmarks' model, where a closed form says what must come of it."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest
from bench.model_plans import CORES, fleet, most_payments, slots_for
from bench.model_shop import Costs, Plan, StageCosts, pay, sell
from bench.pages import SCALING, put
from bench.simulation import Batches, Disk, Line, Server, Simulation, Thread, Turns, Wire

FREE = StageCosts(0.0, 0.0, 0.0, 0.0, 0.0)


def costs(flush_s: float = 0.0, **stages: StageCosts) -> Costs:
    return Costs({"checkout": FREE, "payment": FREE, "notification": FREE} | stages, 0.0, flush_s)


def plan(**changes) -> Plan:
    alone = {
        "machines": [1, 1, 1],
        "redis": [0],
        "postgres": 1,
        "programs": {"payment": [2]},
        "slots": {"payment": 10},
    }
    return Plan(**alone | changes)


def test_a_queue_of_one_server_with_random_arrivals_waits_as_long_as_it_must():
    """M/M/1: those who come wait for rho / (1 - rho) of what one takes."""
    simulation, chance = Simulation(), random.Random(7)
    server = Server(simulation, 1)
    took_s, rho, served_s = [], 0.6, 1.0

    def come(at_s):
        yield simulation.wait(at_s)
        began_s = simulation.now
        own_s = chance.expovariate(1 / served_s)
        yield server.use(own_s)
        took_s.append(simulation.now - began_s - own_s)

    at_s = 0.0
    for _ in range(60_000):
        at_s += chance.expovariate(rho / served_s)
        simulation.start(come(at_s))
    simulation.run(lambda: False)
    assert sum(took_s) / len(took_s) == pytest.approx(served_s * rho / (1 - rho), rel=0.05)
    assert server.busy_s / simulation.now == pytest.approx(rho, rel=0.02)


@pytest.mark.parametrize(("places", "users", "rate"), [(1, 3, 0.75), (1, 9, 1.0), (4, 9, 2.25)])
def test_users_who_think_and_come_again(places, users, rate):
    """At most what the places serve, and what the users ask for: users / (thought + served)."""
    simulation = Simulation()
    server = Server(simulation, places)
    served = itertools.count()
    done = 0

    def use(first_s):
        nonlocal done
        yield simulation.wait(first_s)
        while True:
            yield server.use(1.0)
            done = next(served) + 1
            yield simulation.wait(3.0)

    for n in range(users):
        simulation.start(use(n * 4.0 / users))
    simulation.run(lambda: simulation.now >= 4_000)
    assert done / simulation.now == pytest.approx(rate, rel=0.01)


def test_threads_that_share_too_few_cores_take_as_long_as_their_work_divided():
    simulation = Simulation()
    cores = Server(simulation, 2)
    threads = [Thread(cores) for _ in range(3)]
    for thread in threads:
        for _ in range(10):
            thread.compute(1.0)(lambda: None)
    simulation.run(lambda: False)
    assert simulation.now == pytest.approx(15.0)
    assert [thread.busy_s for thread in threads] == [10.0] * 3


def test_a_flush_is_for_all_who_wrote_before_it_began():
    simulation = Simulation()
    disk = Disk(simulation, 1.0)
    ended = []
    for at_s in (0.0, 0.1, 0.9, 1.5):
        simulation.after(at_s, lambda: disk.flush()(lambda: ended.append(simulation.now)))
    simulation.run(lambda: False)
    # The first alone, two together, and the one that came during their flush.
    assert ended == [1.0, 2.0, 2.0, 3.0]


def test_a_turn_has_all_that_came_during_the_one_before():
    simulation = Simulation()
    redis = Turns(Server(simulation, 1), 0.5)
    ended = []
    for at_s in (0.0, 0.2, 1.0, 5.0):
        simulation.after(at_s, lambda: redis.ask([(1.0, lambda: ended.append(simulation.now))]))
    simulation.run(lambda: False)
    # One alone, two together, and one that found it at rest.
    assert ended == [1.5, 4.0, 4.0, 6.5]
    assert (redis.turns, redis.busy_s) == (3, 5.5)


def test_what_a_turn_of_a_thread_asks_for_goes_together():
    simulation = Simulation()
    thread = Thread(Server(simulation, 1))
    redis = Turns(Server(simulation, 1), 0.5)
    wire = Wire(simulation, thread, redis, away_s=0.25, first=4, more=16)
    ended = []

    def work():
        yield thread.compute(1.0)
        yield wire.ask(0.1)
        ended.append(simulation.now)

    for _ in range(3):
        simulation.start(work())
    simulation.run(lambda: False)
    # Three seconds of the thread, the way, and one turn with three commands.
    assert ended == [pytest.approx(3.0 + 0.25 + 0.5 + 0.3)] * 3
    assert redis.turns == 1


def test_enough_for_a_server_at_rest_goes_before_the_turn_is_over():
    simulation = Simulation()
    redis = Turns(Server(simulation, 1), 1.0)
    wire = Wire(simulation, Thread(Server(simulation, 1)), redis, away_s=0.0, first=2, more=9)
    ended = []
    for _ in range(5):
        wire.ask(0.0)(lambda: ended.append(simulation.now))
    simulation.run(lambda: False)
    # Two at once; three at the end of the turn, when there is something under way.
    assert ended == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_batches_are_as_large_as_what_came_while_others_were_under_way():
    simulation = Simulation()
    thread = Thread(Server(simulation, 1))
    sizes = []

    def run(size):
        sizes.append(size)
        yield simulation.wait(1.0)

    batches = Batches(simulation, thread, run, most=4, under_way=2)
    for _ in range(11):
        batches.ask()(lambda: None)
    simulation.run(lambda: False)
    assert sizes == [4, 4, 3]
    assert simulation.now == 2.0


def test_jobs_are_taken_once_each_and_takers_wait():
    line, taken = Line(1), []
    for name in ("first", "second"):
        line.take()(lambda name=name: taken.append(name))
    assert taken == ["first"]
    line.put()
    assert (taken, line.jobs) == (["first", "second"], 0)


def test_slots_that_wait_for_a_gateway_carry_as_many_as_there_are_in_a_second():
    """Little's law: slots = rate * seconds."""
    carried = pay(costs(), plan(gateway_s=0.5, slots={"payment": 40}), 4_000)
    assert carried.rate == pytest.approx(40 / 0.5, rel=0.02)
    assert carried.bottleneck == "waiting"


@pytest.mark.parametrize(
    ("payment", "rate", "bottleneck"),
    [
        (StageCosts(0.0, 0.0, 0.004, 0.0, 0.0), 250, "Redis"),
        (StageCosts(0.004, 0.0, 0.0, 0.0, 0.0), 250, "payment"),
        (StageCosts(0.0, 0.0, 0.0, 0.004, 0.0), 250, "PostgreSQL"),
    ],
)
def test_the_one_part_that_costs_is_what_ends_it(payment, rate, bottleneck):
    carried = pay(costs(payment=payment), plan(), 2_000)
    assert carried.rate == pytest.approx(rate, rel=0.02)
    assert carried.bottleneck == bottleneck


def test_what_is_on_one_machine_shares_its_cores():
    payment = StageCosts(0.002, 0.0, 0.001, 0.001, 0.0)
    many = {"slots": {"payment": 100}}
    apart = pay(costs(payment=payment), plan(**many), 2_000)
    one_machine = {"machines": [1], "postgres": 0, "programs": {"payment": [0]}}
    together = pay(costs(payment=payment), plan(**many, **one_machine), 2_000)
    assert apart.rate == pytest.approx(1 / 0.002, rel=0.05)
    assert together.rate == pytest.approx(1 / 0.004, rel=0.02)


def test_a_commit_a_batch_is_waited_for_twice_a_payment():
    """One slot: two flushes and nothing else, one payment after the other."""
    carried = pay(costs(flush_s=0.005), plan(slots={"payment": 1}), 500)
    assert carried.rate == pytest.approx(1 / 0.010, rel=0.02)
    assert carried.batch_size == pytest.approx(1.0, rel=0.02)


def test_an_order_goes_through_all_three_stages():
    each = StageCosts(0.001, 0.0, 0.0001, 0.0001, 0.0)
    shop = costs(checkout=each, payment=each, notification=each)
    programs = {"checkout": [2], "payment": [2], "notification": [2]}
    places = plan(machines=[1, 4, 3], programs=programs, slots=dict.fromkeys(programs, 20))
    sold = sell(shop, places, customers=40, orders=2_000)
    assert sold.rate == pytest.approx(1_000, rel=0.02)
    assert sold.busy["cores"] == pytest.approx(1.0, rel=0.02)


def test_the_same_is_said_each_time_and_more_machines_never_carry_less():
    each = StageCosts(0.0002, 0.0001, 0.0001, 0.0001, 0.0001)
    shop = costs(0.001, checkout=each, payment=each, notification=each)
    rates = [fleet(shop, machines, CORES[0], 1).outcome.rate for machines in (1, 2, 4)]
    assert rates == sorted(rates)
    assert fleet(shop, 2, CORES[0], 1).outcome.rate == rates[1]


def test_a_slow_gateway_is_carried_by_the_slots_that_it_is_said_to_need():
    slots = slots_for(100, 0.5)
    assert slots == 72
    assert most_payments(costs(), slots, 0.5).rate == pytest.approx(slots / 0.5, rel=0.05)


def test_what_was_measured_is_read(tmp_path):
    file = tmp_path / "costs.json"
    stage = {
        "python_s": 1.0,
        "python_batch_s": 2.0,
        "redis_s": 3.0,
        "postgres_s": 4.0,
        "postgres_batch_s": 5.0,
    }
    file.write_text(json.dumps({"stages": {"payment": stage}, "redis_turn_s": 0.1, "flush_s": 0.5}))
    assert Costs.read(file) == Costs({"payment": StageCosts(1.0, 2.0, 3.0, 4.0, 5.0)}, 0.1, 0.5)


def test_a_table_goes_to_its_place_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\n<!-- /two -->\n")
    put(page, "one", "a  b")
    put(page, "one", "c  d")
    assert page.read_text() == (
        "before\n<!-- one -->\n```text\nc  d\n```\n<!-- /one -->\n<!-- two -->\n<!-- /two -->\n"
    )
    with pytest.raises(ValueError, match=r"page\.md has 0 places for the table three"):
        put(page, "three", "")


@pytest.mark.parametrize("name", ["fleet", "costs", "check", "machines", "slots", "rush"])
def test_the_page_about_scaling_has_each_table(name):
    [table] = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", SCALING.read_text(), re.DOTALL)
    assert table.startswith("```text\n")
