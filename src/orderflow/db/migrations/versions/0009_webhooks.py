"""Webhooks: who is told of orders, what they are told of, and what came of each attempt."""

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE webhook_endpoints (
        id uuid PRIMARY KEY,
        url text NOT NULL,
        description text NOT NULL,
        types text[] NOT NULL CHECK (cardinality(types) > 0 AND types <@ ARRAY[
            'order.confirmed', 'order.cancelled', 'order.shipped', 'order.delivered',
            'order.refunded']),
        secret text NOT NULL CHECK (starts_with(secret, 'whsec_')),
        old_secret text, -- signs beside the new one until then
        old_secret_until timestamptz,
        enabled boolean NOT NULL DEFAULT true,
        disabled_because text,
        reached_at timestamptz, -- when something was delivered last, to the minute
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT disabled_for_a_reason CHECK (enabled = (disabled_because IS NULL))
    )
    """,
    # Written with what it tells of, by the statements of charges too, so without foreign keys: each
    # would be a look-up more for every order.
    """
    CREATE TABLE webhook_deliveries (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        endpoint_id uuid NOT NULL,
        type text NOT NULL,
        order_id uuid NOT NULL,
        refund_id uuid, -- that it tells of
        order_status text NOT NULL, -- as it was then
        happened_at timestamptz NOT NULL DEFAULT now(),
        status text NOT NULL DEFAULT 'waiting' CHECK (status IN (
            'waiting', 'delivered', 'given_up')),
        due_at timestamptz DEFAULT now(), -- while it is under way: when that counts as lost
        begun_at timestamptz NOT NULL DEFAULT now(), -- since when it is tried
        tries integer NOT NULL DEFAULT 0, -- that failed since then
        attempts integer NOT NULL DEFAULT 0, -- in all
        ended_at timestamptz,
        CONSTRAINT what_waits_is_due CHECK ((status = 'waiting') = (due_at IS NOT NULL)),
        CONSTRAINT what_waits_has_no_end CHECK ((status = 'waiting') = (ended_at IS NULL))
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at)
        WHERE due_at IS NOT NULL
    """,
    """
    CREATE INDEX webhook_deliveries_of_order ON webhook_deliveries (order_id)
        WHERE due_at IS NOT NULL
    """,
    "CREATE INDEX webhook_deliveries_listed ON webhook_deliveries (endpoint_id, status, id)",
    """
    CREATE INDEX webhook_deliveries_by_end ON webhook_deliveries (ended_at)
        WHERE ended_at IS NOT NULL
    """,
    """
    CREATE TABLE webhook_attempts (
        delivery_id bigint NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
        attempt integer NOT NULL,
        at timestamptz NOT NULL DEFAULT now(), -- when it ended
        took_ms integer NOT NULL,
        status_code integer, -- null where no answer came
        error text,
        answer text NOT NULL, -- its beginning
        PRIMARY KEY (delivery_id, attempt)
    )
    """,
    # An endpoint that is gone, or that fails for days, is disabled by the worker that meets it.
    """
    ALTER TABLE audit_log
        DROP CONSTRAINT audit_log_via_check,
        ADD CONSTRAINT audit_log_via_check CHECK (via IN ('api', 'cli', 'page', 'worker'))
            NOT VALID
    """,
)


def upgrade() -> None:
    """Add them; the rows that are there are looked through without holding anybody up."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
        op.execute("ALTER TABLE audit_log VALIDATE CONSTRAINT audit_log_via_check")
