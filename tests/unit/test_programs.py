"""What a Procfile names, and how many processes `orderflow up --scale` gives each."""

from __future__ import annotations

import pytest

from orderflow.sandbox.programs import ScaleError, read_programs, scale_programs

PROGRAMS = {
    "api": "python -m orderflow.api",
    "payment": "python -m orderflow.worker payment --concurrency 10",
    "exporter": "python -m orderflow.exporter",
}


def test_a_procfile_names_programs_and_may_say_more(tmp_path):
    procfile = tmp_path / "Procfile"
    procfile.write_text("# a shop\n\napi: python -m api\nmy-own_2:env A=b: run\nempty:\nlast: true")
    assert read_programs(procfile) == {
        "api": "python -m api",
        "my-own_2": "env A=b: run",
        "last": "true",
    }


def test_what_is_not_named_stays_as_it_is():
    assert scale_programs(PROGRAMS, "") == PROGRAMS


def test_the_api_and_workers_can_be_many():
    assert scale_programs(PROGRAMS, "payment=5, api=2") == {
        "api": "env WEB_CONCURRENCY=2 python -m orderflow.api",
        "payment": "python -m orderflow.worker payment --concurrency 10 --processes 5",
        "exporter": "python -m orderflow.exporter",
    }


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        ("paiment=2", "--scale paiment=2: these can be many: api, payment"),
        ("exporter=2", "--scale exporter=2: these can be many: api, payment"),
        ("payment=0", "--scale payment=0: must be NAME=PROCESSES, 1 to 256 of them, as payment=5"),
        ("payment=257", "--scale payment=257: must be NAME=PROCESSES"),
        ("payment=-1", "--scale payment=-1: must be NAME=PROCESSES"),
        ("payment", "--scale payment: must be NAME=PROCESSES"),
        ("payment=2,payment=3", "--scale payment=3: payment is named twice"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_can(scale, told):
    with pytest.raises(ScaleError) as refused:
        scale_programs(PROGRAMS, scale)
    assert str(refused.value).startswith(told)
    assert "\n" not in str(refused.value)
