"""What the reconciler decides: an order's row, its job and the gateway's word, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from orderflow.bull.states import JobState
from orderflow.gateways import ActionRequired, Approved, Declined
from orderflow.reconcile.decide import (
    Action,
    Decision,
    NoWord,
    Rules,
    can_be_charged,
    decide,
    needs_word,
)
from orderflow.reconcile.plan import Planned
from orderflow.settings import Settings

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
RULES = Rules(order_ttl=HOUR, charge_at_most=MINUTE)
OPEN = ("pending", "processing")
WAITS = ActionRequired("pi_1", "pi_1_secret")


def row(status: str, payment: str, age=MINUTE, rest=HOUR):
    return {
        "status": status,
        "payment_status": payment,
        "age": age,
        "payment_rest": rest,
        "method": "card",
    }


def action(row, state, word=NoWord.NOT_ASKED, rules=RULES) -> Action:
    return decide(row, state, word, rules).action


def test_every_case_has_a_decision_with_a_reason():
    words = (*NoWord, Approved("ch_1"), Declined("no"), WAITS)
    statuses = ("pending", "processing", "confirmed", "shipped", "delivered", "cancelled")
    payments, ages, rests = (*OPEN, "requires_action"), (MINUTE, 2 * HOUR), (MINUTE, HOUR)
    for status, payment, age, rest, state, word in product(
        statuses, payments, ages, rests, JobState, words
    ):
        assert decide(row(status, payment, age, rest), state, word, RULES).reason


#: What is done about a job, whatever it is to do, but for one that ended elsewhere.
WHATEVER_IT_DOES = [
    (JobState.ACTIVE, Action.LEAVE),
    (JobState.LIVE, Action.LEAVE),
    (JobState.MISSING, Action.ADD),
    (JobState.LOST, Action.REPLACE),
    (JobState.ASTRAY, Action.REPLACE),
    (JobState.FAILED, Action.RETRY),
    (JobState.PUT_ASIDE, Action.LEAVE),
]


@pytest.mark.parametrize("status", ["confirmed", "cancelled"])
@pytest.mark.parametrize(
    ("state", "expected"), [*WHATEVER_IT_DOES, (JobState.COMPLETED, Action.MARK_TOLD)]
)
def test_an_ended_order_has_its_customer_told(status, state, expected):
    ended = row(status, "completed", age=2 * HOUR)
    assert action(ended, state) is expected
    assert not needs_word(ended, state, RULES)


@pytest.mark.parametrize("payment", OPEN)
@pytest.mark.parametrize(
    ("state", "expected"), [*WHATEVER_IT_DOES, (JobState.COMPLETED, Action.RETRY)]
)
def test_a_payment_that_no_charge_is_known_of_is_put_back(payment, state, expected):
    assert action(row("processing", payment), state, NoWord.NO_CHARGE) is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (JobState.MISSING, Action.ADD),
        (JobState.LOST, Action.REPLACE),
        (JobState.ASTRAY, Action.REPLACE),
        (JobState.FAILED, Action.RETRY),
        (JobState.PUT_ASIDE, Action.LEAVE),
        (JobState.COMPLETED, Action.WAIT),
    ],
)
def test_without_an_answer_the_worker_asks_but_a_result_waits(state, expected):
    assert action(row("processing", "processing"), state, NoWord.NO_ANSWER) is expected


def test_what_is_done_is_told_in_the_words_of_the_docs():
    assert list(Action) == [
        *("leave", "wait", "add job", "replace job", "retry job"),
        *("write outcome", "mark told", "expire", "ask later"),
    ]
    assert list(NoWord) == ["not asked", "no charge", "no answer"]


def test_the_reason_of_an_outcome_says_who_knows_it_and_what_it_is():
    unknown = row("processing", "processing")
    for state, who in [
        (JobState.COMPLETED, "its job ended elsewhere"),
        (JobState.MISSING, "the gateway knows"),
    ]:
        for word, outcome in [(Approved("ch_1"), "paid"), (Declined("no"), "declined")]:
            assert decide(unknown, state, word, RULES).reason == f"{who}: {outcome}"


def test_only_cash_the_gateway_cannot_know_of():
    assert can_be_charged(row("processing", "processing"))
    assert not can_be_charged(row("processing", "processing") | {"method": "cash"})


def test_a_bound_itself_is_within():
    moment = timedelta(microseconds=1)
    pending = row("processing", "pending", age=HOUR)
    assert not RULES.is_over(pending)
    assert RULES.is_over(pending | {"age": HOUR + moment})
    begun = row("processing", "processing", rest=MINUTE)
    assert RULES.may_be_charging(begun)
    assert not RULES.may_be_charging(begun | {"payment_rest": MINUTE + moment})
    waits = row("processing", "requires_action", rest=5 * MINUTE)
    assert not needs_word(waits, JobState.MISSING, RULES)
    assert needs_word(waits | {"payment_rest": 5 * MINUTE + moment}, JobState.MISSING, RULES)


@pytest.mark.parametrize("word", [Approved("ch_1"), Declined("no")])
@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.ACTIVE])
@pytest.mark.parametrize("age", [MINUTE, 2 * HOUR])
def test_an_outcome_that_is_known_is_written(word, state, age):
    assert action(row("processing", "processing", age), state, word) is Action.WRITE


def test_only_what_is_not_known_is_asked_about():
    def asked(payment: str, state: JobState, age=MINUTE) -> bool:
        return needs_word(row("processing", payment, age), state, RULES)

    for state in JobState:
        assert asked("pending", state) is (state is JobState.COMPLETED)
        assert asked("processing", state) is (state not in {JobState.ACTIVE, JobState.LIVE})
        assert asked("pending", state, 2 * HOUR) is (state is not JobState.ACTIVE)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize(
    ("payment", "rest", "word", "expected"),
    [
        ("pending", timedelta(0), NoWord.NO_CHARGE, Action.EXPIRE),
        ("processing", HOUR, NoWord.NO_CHARGE, Action.EXPIRE),
        ("processing", MINUTE, NoWord.NO_CHARGE, Action.WAIT),
        ("pending", HOUR, NoWord.NO_ANSWER, Action.WAIT),
        ("processing", HOUR, NoWord.NO_ANSWER, Action.WAIT),
    ],
)
def test_an_order_past_its_time(state, payment, rest, word, expected):
    past = row("processing", payment, age=2 * HOUR, rest=rest)
    if state is JobState.ACTIVE:
        word, expected = NoWord.NOT_ASKED, Action.LEAVE
    assert action(past, state, word) is expected
    assert action(past, state, word, Rules(None, MINUTE)) is not Action.EXPIRE


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize(
    ("age", "rest", "word", "expected"),
    [
        (MINUTE, MINUTE, NoWord.NOT_ASKED, Action.LEAVE),
        (MINUTE, HOUR, WAITS, Action.REST_AGAIN),
        (MINUTE, HOUR, NoWord.NO_CHARGE, Action.REST_AGAIN),
        (MINUTE, HOUR, NoWord.NO_ANSWER, Action.REST_AGAIN),
        (MINUTE, HOUR, Approved("ch_1"), Action.WRITE),
        (MINUTE, HOUR, Declined("no"), Action.WRITE),
        (2 * HOUR, MINUTE, NoWord.NOT_ASKED, Action.LEAVE),
        (2 * HOUR, HOUR, WAITS, Action.EXPIRE),
        (2 * HOUR, HOUR, NoWord.NO_CHARGE, Action.EXPIRE),
        (2 * HOUR, HOUR, NoWord.NO_ANSWER, Action.WAIT),
        (2 * HOUR, HOUR, Approved("ch_1"), Action.WRITE),
    ],
)
def test_a_payment_that_waits_for_its_customer_gets_no_job(state, age, rest, word, expected):
    waits = row("processing", "requires_action", age, rest)
    if state is JobState.ACTIVE:
        word, expected = NoWord.NOT_ASKED, Action.LEAVE
    assert needs_word(waits, state, RULES) is (word is not NoWord.NOT_ASKED)
    assert action(waits, state, word) is expected


def test_a_charge_that_waits_and_was_not_written_down_is_put_back():
    assert action(row("processing", "processing"), JobState.MISSING, WAITS) is Action.ADD


def test_the_rules_come_from_the_settings():
    assert Rules.from_settings(Settings(_env_file=None)).order_ttl is None
    assert Rules() == Rules(None, 2 * MINUTE)
    settings = Settings(
        _env_file=None,
        order_ttl_s=60,
        job_timeout_ms=30_000,
        worker_hang_ms=20_000,
        gateway_timeout_ms=10_000,
    )
    assert Rules.from_settings(settings) == Rules(MINUTE, MINUTE)


@pytest.mark.parametrize(
    ("age_s", "told"),
    [
        *((0.9, "0 s"), (119.9, "119 s"), (120, "2 min"), (7_199, "119 min"), (7_200, "2 h")),
        *((172_799, "47 h"), (172_800, "2 d"), (8_639_999, "99 d")),
    ],
)
def test_what_is_planned_is_told_in_one_line(age_s, told):
    planned = Planned(
        order_id="42",
        age=timedelta(seconds=age_s),
        status="processing",
        payment_status="pending",
        job_state=JobState.MISSING,
        decision=Decision(Action.ADD, "its job is gone"),
    )
    line = f"42  {told:>8}  processing  pending     missing    add job        its job is gone"
    assert str(planned) == line
