"""The operators' page over HTTP: who may see it, what its forms ask, and what it never shows."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

import asyncpg
import httpx
import pytest
from redis import Redis
from tests.conftest import SECRET

from orderflow.api.app import create_app
from orderflow.bull.history import read_history
from orderflow.operations.health import (
    last_reconciler_run,
    redis_health,
    violated_invariants,
)
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

ADD_JOB = Callable[..., Awaitable[str]]
QUEUE = "/admin/queues/payment-processing"


class Page:
    """A browser without a screen: it keeps cookies, and sends the forms that it was shown."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def post(
        self, path: str, fields: Mapping[str, str], *, csrf: str | None = None, **headers: str
    ) -> httpx.Response:
        """Send a form with the token that the page at this path has, or with another one."""
        if csrf is None:
            [csrf, *_] = re.findall(r'name="csrf" value="([^"]+)"', (await self.get(path)).text)
        return await self.client.post(path, data={**fields, "csrf": csrf}, headers=headers)

    async def sign_in(self, token: str | None = None, **fields: str) -> httpx.Response:
        token = token or make_token(SECRET, "olga", admin=True)
        return await self.post("/admin/login", {"token": token, **fields})


def text_of(answer: httpx.Response) -> str:
    """Return the words of a page."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


@asynccontextmanager
async def browse(settings: Settings, base_url: str = "http://shop.test") -> AsyncIterator[Page]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as client,
    ):
        yield Page(client)


@pytest.fixture
async def stranger(settings: Settings, resources: Resources) -> AsyncIterator[Page]:
    """Somebody who is not signed in."""
    assert resources
    async with browse(settings) as page:
        yield page


@pytest.fixture
async def admin(stranger: Page) -> Page:
    assert (await stranger.sign_in()).status_code == 303
    return stranger


@pytest.fixture
def add_job(resources: Resources) -> ADD_JOB:
    """Add a job by BullMQ itself, as any producer does."""

    async def add(data: Any, name: str = "process-payment", **opts: Any) -> str:
        queue = resources.queues.queue("payment-processing")
        job = await queue.add(name, data, opts)
        return str(job.id)

    return add


async def fail_all(redis: Redis, settings: Settings) -> None:
    """Let the jobs that wait be failed ones, as a worker that could not do them leaves them."""
    key = f"{settings.queue_prefix}:payment-processing"
    while job_id := redis.rpop(f"{key}:wait"):
        redis.hset(
            f"{key}:{job_id}", mapping={"failedReason": "no", "finishedOn": 1_790_000_000_000}
        )
        redis.zadd(f"{key}:failed", {job_id: 1_790_000_000_000})


async def test_a_stranger_is_sent_to_sign_in_and_back(stranger: Page):
    sent = await stranger.get(f"{QUEUE}?state=failed")
    assert sent.status_code == 303
    form = await stranger.get(sent.headers["location"])
    assert form.status_code == 200

    onward = unescape(re.search(r'name="onward" value="([^"]+)"', form.text)[1])
    signed_in = await stranger.sign_in(onward=onward)
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, f"{QUEUE}?state=failed")
    assert (await stranger.get(signed_in.headers["location"])).status_code == 200


async def test_signing_in_never_leads_elsewhere(stranger: Page):
    for onward in (
        *("https://evil.example/", "//evil.example/", "/adminevil", "", "javascript:alert(1)"),
    ):
        assert (await stranger.sign_in(onward=onward)).headers["location"] == "/admin"


async def test_the_cookie_is_kept_from_scripts_and_other_sites(settings: Settings):
    for base_url, secure in (("http://shop.test", False), ("https://shop.test", True)):
        async with browse(settings, base_url) as page:
            cookie = (await page.sign_in()).headers["set-cookie"]
        assert cookie.startswith("orderflow_admin=")
        assert {"HttpOnly", "SameSite=strict", "Path=/admin"} <= set(cookie.split("; "))
        assert ("Secure" in cookie) == secure
        assert 3_590 <= int(re.search(r"Max-Age=(\d+)", cookie)[1]) <= 3_600


async def test_a_token_that_is_no_good_is_told_and_not_kept(stranger: Page):
    expired = make_token(SECRET, "olga", admin=True, ttl_s=-60)
    foreign = make_token("another secret that is long enough too", "olga", admin=True)
    for token, said in (
        (expired, "The token has expired."),
        (foreign, "is not one that this shop's login signed"),
        ("x" * 4_000, "3800 characters at most"),
    ):
        answer = await stranger.sign_in(token)
        assert answer.status_code == 401
        assert said in text_of(answer)
        assert token not in answer.text
        assert "orderflow_admin" not in stranger.client.cookies
    assert (await stranger.sign_in(" ")).status_code == 401


async def test_a_user_who_is_no_admin_is_told_why(stranger: Page):
    token = make_token(SECRET, "bob")
    refused = await stranger.sign_in(token)
    assert refused.status_code == 403
    assert "You are bob" in text_of(refused)
    assert '"roles": ["admin"]' in text_of(refused)
    by_header = await stranger.get("/admin", authorization=f"Bearer {token}")
    assert by_header.status_code == 403


async def test_a_proxy_may_add_the_token(stranger: Page):
    token = make_token(SECRET, "olga", admin=True)
    answer = await stranger.get("/admin", authorization=f"Bearer {token}")
    assert answer.status_code == 200
    assert "olga" in text_of(answer)
    assert "orderflow_admin" not in stranger.client.cookies


async def test_a_token_that_expired_since_ends_the_session(admin: Page):
    admin.client.cookies.set(
        "orderflow_admin", make_token(SECRET, "olga", admin=True, ttl_s=-1), path="/admin"
    )
    sent = await admin.get("/admin/audit")
    assert sent.headers["location"] == "/admin/login?onward=%2Fadmin%2Faudit"
    stream = await admin.get("/admin", accept="text/event-stream")
    assert stream.status_code == 401


async def test_signing_out_forgets_the_token(admin: Page):
    [csrf, *_] = re.findall(r'name="csrf" value="([^"]+)"', (await admin.get("/admin")).text)
    await admin.post("/admin/logout", {}, csrf=csrf)
    assert (await admin.get("/admin")).status_code == 303


async def test_only_its_own_forms_are_taken(admin: Page, resources: Resources):
    form = {"reason": "why not", "token": "x"}
    [csrf, *_] = re.findall(r'name="csrf" value="([^"]+)"', (await admin.get("/admin")).text)
    for path in ("/admin/login", "/admin/logout", "/admin/search", f"{QUEUE}/pause"):
        for answer in (
            await admin.client.post(path, data=form),
            await admin.post(path, form, csrf="made up"),
            await admin.post(path, form, csrf="é"),
            await admin.post(path, form, csrf=csrf, **{"sec-fetch-site": "cross-site"}),
            await admin.post(path, form, csrf=csrf, **{"sec-fetch-site": "same-site"}),
            await admin.client.post(path, content=b"&".join([b"a=1"] * 1_000)),
        ):
            assert answer.status_code == 403, path
            assert "Nothing was done" in text_of(answer)
    assert (await admin.get("/admin")).status_code == 200, "still signed in"
    assert not await resources.queues.queue("payment-processing").isPaused()


async def test_every_page_forbids_foreign_content(admin: Page):
    for path in ("/admin", "/admin/login", QUEUE, "/admin/nothing"):
        answer = await admin.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        if answer.status_code == 200:
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"<script>|style=|onclick=|https?://", answer.text)


async def test_style_and_script_are_kept_by_what_is_in_them(admin: Page):
    page = (await admin.get("/admin")).text
    addresses = re.findall(r'(?:href|src)="(/admin/static/[^"]+)"', page)
    assert len(addresses) == 3
    for address in addresses:
        answer = await admin.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert (await admin.get("/admin/static/routes.py")).status_code == 404


async def test_what_is_not_there_is_told_as_a_page(admin: Page):
    for path, status, said in (
        ("/admin/queues/nope", 404, "these are known: payment-processing"),
        (f"{QUEUE}?state=lost", 404, "its states are: waiting"),
        (f"{QUEUE}?start=-1", 400, "start must be a whole number"),
        (f"{QUEUE}/job?id=nope", 404, "has no job 'nope'"),
        (f"{QUEUE}/job/retry?id=nope", 404, "has no job 'nope'"),
        ("/admin/orders/nope", 404, "There is no order 'nope'"),
        ("/admin/failures/nope", 404, "no group of failures 'nope'"),
        ("/admin/failures/nope/retry", 404, "no group of failures 'nope'"),
        ("/admin/bulk/nope", 404, "no bulk action 'nope'"),
        ("/admin/audit?before=x", 400, "before must be a whole number"),
    ):
        answer = await admin.get(path)
        assert (path, answer.status_code) == (path, status)
        assert answer.headers["content-type"].startswith("text/html")
        assert said in text_of(answer)


async def test_a_form_says_which_field_breaks_which_rule(
    admin: Page, sql: asyncpg.Connection[asyncpg.Record]
):
    for action, fields, said in (
        ("pause", {"reason": " "}, "Reason must not be empty"),
        ("pause", {"reason": "x" * 501}, "500 characters"),
        ("pause", {"reason": "a\nb"}, "one line"),
        ("rate-limit", {"max": "0", "duration_ms": "1000"}, "Jobs must be a whole number from 1"),
        ("rate-limit", {"max": "5", "duration_ms": ""}, "Milliseconds must be a whole number"),
        ("concurrency", {"most": "many"}, "Jobs at once must be a whole number from 1"),
        ("clean", {"state": "active", "older_than_s": "1"}, "must be failed or completed"),
        ("clean", {"state": "failed", "older_than_s": "9" * 30}, "Seconds since their end must"),
    ):
        answer = await admin.post(f"{QUEUE}/{action}", {"reason": "to see"} | fields)
        assert answer.status_code == 422, said
        assert said in text_of(answer)
        assert 'aria-invalid="true"' in answer.text
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_data_that_cannot_be_read_are_told(
    admin: Page, add_job: ADD_JOB, redis: Redis, settings: Settings
):
    job_id = await add_job({"paymentId": "1", "orderId": "2", "paymentData": {}})
    await fail_all(redis, settings)
    for data, said in (
        ("{", "must be JSON: line 1"),
        ("[1]", "must be an object"),
        ('{"a": NaN}', "must be JSON"),
        ("[" * 20_000, "must be JSON"),
        ('{"paymentId": "1"}', "orderId: Field required"),
    ):
        answer = await admin.post(
            f"{QUEUE}/job/edit?id={job_id}", {"data": data, "reason": "to see"}
        )
        assert answer.status_code == 422, data[:20]
        assert said in text_of(answer)
    assert redis.hget(f"{settings.queue_prefix}:payment-processing:{job_id}", "failedReason")


async def test_personal_data_and_tokens_are_masked_and_stay(
    admin: Page, add_job: ADD_JOB, redis: Redis, settings: Settings
):
    """What is edited around a mask keeps what is behind it."""
    data = {
        "paymentId": "1",
        "orderId": "2",
        "paymentData": {"method": "card", "amount": 5, "token": "tok_secret_of_ada"},
        "customer": {"email": "ada@shop.example", "phone": "+49 30 1234567"},
        "note": "call ada@shop.example",
    }
    job_id = await add_job(data)
    await fail_all(redis, settings)
    for path in (f"{QUEUE}/job?id={job_id}", f"{QUEUE}/job/edit?id={job_id}"):
        page = await admin.get(path)
        for hidden in ("tok_secret", "ada@shop", "1234567"):
            assert hidden not in page.text

    shown = re.search(r"<textarea[^>]*>(.*?)</textarea>", page.text, re.DOTALL)[1]
    edited = json.loads(unescape(shown))
    edited["paymentData"]["amount"] = 6
    answer = await admin.post(
        f"{QUEUE}/job/edit?id={job_id}", {"data": json.dumps(edited), "reason": "wrong amount"}
    )
    assert answer.status_code == 303, text_of(answer)
    kept = json.loads(redis.hget(f"{settings.queue_prefix}:payment-processing:{job_id}", "data"))
    assert kept == data | {"paymentData": data["paymentData"] | {"amount": 6}}


async def test_an_address_of_a_customer_is_searched_for_by_post_alone(admin: Page):
    answer = await admin.post("/admin/search", {"q": "nobody@shop.example"}, csrf=None)
    assert "Nothing has the id or the address nobody@shop.example" in text_of(answer)
    assert 'method="post" action="/admin/search"' in answer.text


async def test_a_job_of_a_stranger_is_shown_and_runs_no_script(admin: Page, add_job: ADD_JOB):
    name = "<img src=x onerror=alert(1)>"
    await add_job({"<script>": "</pre><script>alert(1)</script>"}, name, jobId="a b/c?d#é&amp;\"'<")
    page = (await admin.get(QUEUE)).text
    assert "<img" not in page
    [link] = re.findall(r'href="([^"]+/job\?id=[^"]+)"', page)
    job = await admin.get(unescape(link))
    assert job.status_code == 200
    assert "<script>alert" not in job.text
    assert "a b/c?d#é&amp;\"'<" in text_of(job)


async def test_lists_are_paged(admin: Page, add_job: ADD_JOB):
    for number in range(60):
        await add_job({"number": number}, jobId=f"job-{number}")
    first = (await admin.get(QUEUE)).text
    assert re.findall(r">(job-\d+)</a>", first) == [f"job-{number}" for number in range(25)]
    assert "1 to 25 of 60" in first
    [after] = re.findall(r'href="([^"]+)">After<', first)
    last = (await admin.get(unescape(after).replace("start=25", "start=50"))).text
    assert re.findall(r">(job-\d+)</a>", last) == [f"job-{number}" for number in range(50, 60)]
    assert "51 to 60 of 60" in last
    assert ">After<" not in last


async def test_a_server_that_is_away_leaves_its_part_unknown(settings: Settings):
    """And the rest of the overview is shown: it is what one looks at then."""
    nowhere = free_port()
    token = make_token(SECRET, "olga", admin=True)
    redis_away = settings.model_copy(
        update={"redis_url": type(settings.redis_url)(f"redis://:hunter2@127.0.0.1:{nowhere}/0")}
    )
    async with browse(redis_away) as page:
        answer = await page.get("/admin", authorization=f"Bearer {token}")
        assert answer.status_code == 200
        assert "does not answer" in text_of(answer)
        assert "nobody knows what is in the queues" in text_of(answer)
        assert "hunter2" not in answer.text
        queue = await page.get(QUEUE, authorization=f"Bearer {token}")
        assert queue.status_code == 503
    postgres_away = settings.model_copy(
        update={
            "database_url": type(settings.database_url)(
                f"postgresql://u:hunter2@127.0.0.1:{nowhere}/d"
            )
        }
    )
    async with browse(postgres_away) as page:
        answer = await page.get("/admin", authorization=f"Bearer {token}")
        assert answer.status_code == 200
        assert "No checkout can be taken until it does" in text_of(answer)
        assert "payment-processing" in text_of(answer)
        assert "hunter2" not in answer.text


async def test_what_ended_is_counted_in_the_minute_in_which_it_did(
    resources: Resources, redis: Redis, settings: Settings
):
    """BullMQ brings its list up to date with the next job that ends, so it may be old."""
    key = f"{settings.queue_prefix}:payment-processing:metrics:completed"
    assert (await read_history(resources.queues, "payment-processing", 6)).completed == [0] * 6

    redis.rpush(f"{key}:data", 5, 0, 3)  # the newest first, up to the minute before the last job's
    for minutes_ago, counted in ((0, [0, 0, 3, 0, 5, 7]), (2, [3, 0, 5, 7, 0, 0]), (9, [0] * 6)):
        seconds, _ = redis.time()
        last_ms = (seconds - minutes_ago * 60) * 1_000
        redis.hset(key, mapping={"count": 107, "prevCount": 100, "prevTS": last_ms})
        if redis.time()[0] // 60 == seconds // 60:
            history = await read_history(resources.queues, "payment-processing", 6)
            assert (minutes_ago, history.completed) == (minutes_ago, counted)
            assert history.failed == [0] * 6
            assert history.failure_rate == (0.0 if any(counted) else None)


async def test_what_a_worker_ends_is_in_the_last_minute(
    resources: Resources, settings: Settings, probe: Callable[..., Any]
):
    async def fail_some(job: Any, _token: str) -> None:
        if job.data["fail"]:
            raise ValueError("as asked")

    worker = probe(
        settings.redis_dsn,
        settings.queue_prefix,
        fail_some,
        concurrency=5,
        metrics={"maxDataPoints": 100},
    )
    for number in range(8):
        await worker.queue.add("probe", {"fail": number % 4 == 0}, {"attempts": 1})
    await worker.until(lambda: all_ended(resources, 8))
    history = await read_history(resources.queues, "probe", 60)
    assert (sum(history.completed[-2:]), sum(history.failed[-2:])) == (6, 2)
    assert history.failure_rate == 0.25


async def all_ended(resources: Resources, jobs: int) -> bool:
    counts = await resources.queues.counts("probe")
    return counts["completed"] + counts["failed"] == jobs


async def test_the_newest_run_of_the_reconciler_is_told(
    admin: Page, resources: Resources, redis: Redis, settings: Settings
):
    assert await last_reconciler_run(resources.queues) is None
    assert "None in the last hour" in text_of(await admin.get("/admin"))
    key = f"{settings.queue_prefix}:order-processing"
    runs = {"a": (1_000, '{"jobs_added": 1}'), "b": (9_000, '{"jobs_added": 4}')}
    for job_id, (ended_ms, counts) in runs.items():
        redis.zadd(f"{key}:completed", {job_id: ended_ms})
        fields = {"name": "reconcile", "finishedOn": ended_ms, "returnvalue": counts}
        redis.hset(f"{key}:{job_id}", mapping=fields)
    redis.zadd(f"{key}:completed", {"other": 20_000})
    redis.hset(f"{key}:other", mapping={"name": "ship-order", "finishedOn": 20_000})
    run = await last_reconciler_run(resources.queues)
    assert (run.ended_at.timestamp(), run.failed_reason, run.counts) == (9, None, {"jobs_added": 4})
    redis.zadd(f"{key}:failed", {"c": 10_000})
    failed = {"name": "reconcile", "finishedOn": 10_000, "failedReason": "PostgreSQL is away"}
    redis.hset(f"{key}:c", mapping=failed)
    run = await last_reconciler_run(resources.queues)
    assert (run.ended_at.timestamp(), run.failed_reason) == (10, "PostgreSQL is away")


async def test_servers_and_violations_are_told_in_plain_words(
    admin: Page, sql: asyncpg.Connection[asyncpg.Record], resources: Resources, redis: Redis
):
    before = text_of(await admin.get("/admin"))
    assert "is late, no charge is stray" in before
    assert redis.info()["redis_version"] in before
    assert (await sql.fetchval("SHOW server_version")).split()[0] in before

    await sql.execute(
        "INSERT INTO orders (id, source, user_id, status, total, currency, email, created_at)"
        " VALUES (gen_random_uuid(), 'checkout', 'u', 'pending', 1, 'EUR', 'a@b.example',"
        " now() - interval '2 hours')"
    )
    [violation] = await violated_invariants(resources.db, resources.settings)
    assert (violation.count, violation.invariant.violated) == (
        1,
        "orders are open for longer than they should be",
    )
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        [health] = await redis_health(resources.queues)
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert health.trouble == ["it drops jobs when its memory is full (allkeys-lru)"]
