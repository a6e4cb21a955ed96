"""What becomes of an order after its payment: refunds, events, and what the gateway's books say."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A table of its own: a refund begins as the wish of somebody, before the gateway knows of it.
    """
    CREATE TABLE refunds (
        id uuid PRIMARY KEY, -- the gateway's idempotency key
        order_id uuid NOT NULL REFERENCES orders (id),
        payment_id uuid NOT NULL REFERENCES payments (id),
        cause text NOT NULL CHECK (cause IN ('cancel', 'request', 'stray')),
        transaction_id text, -- of the charge; null in cash, and until it is known
        amount numeric(12, 2) NOT NULL CHECK (amount > 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        status text NOT NULL DEFAULT 'pending' CHECK (status IN (
            'pending', 'processing', 'completed', 'failed', 'void')),
        gateway_id text, -- what the gateway calls it
        decline_reason text,
        idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
        asked numeric(12, 2), -- null where all that is left was asked for
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT refusal_has_a_reason CHECK (status <> 'failed' OR decline_reason IS NOT NULL)
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX refunds_of_order ON refunds (order_id, id)",
    "CREATE INDEX refunds_of_payment ON refunds (payment_id)",
    """
    CREATE UNIQUE INDEX refunds_by_key ON refunds (payment_id, idempotency_key)
        WHERE idempotency_key IS NOT NULL
    """,
    # What the reconciler looks at.
    """
    CREATE INDEX refunds_open ON refunds (created_at, id)
        WHERE status IN ('pending', 'processing')
    """,
    # Each is written with what it tells of, and is the intent to tell of it.
    """
    CREATE TABLE order_events (
        id uuid PRIMARY KEY,
        order_id uuid NOT NULL REFERENCES orders (id),
        kind text NOT NULL CHECK (kind IN (
            'order-shipped', 'order-delivered', 'order-cancelled', 'order-refunded')),
        refund_id uuid UNIQUE REFERENCES refunds (id),
        details jsonb NOT NULL DEFAULT '{}',
        at timestamptz NOT NULL DEFAULT now(),
        told_at timestamptz, -- when the customer was told of it
        CONSTRAINT only_refunds_have_one
            CHECK ((kind = 'order-refunded') = (refund_id IS NOT NULL))
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX order_events_of_order ON order_events (order_id, id)",
    """
    CREATE UNIQUE INDEX order_events_once ON order_events (order_id, kind)
        WHERE refund_id IS NULL
    """,
    "CREATE INDEX order_events_untold ON order_events (at, id) WHERE told_at IS NULL",
    """
    CREATE TABLE event_messages (
        event_id uuid NOT NULL REFERENCES order_events (id),
        channel text NOT NULL CHECK (channel IN ('email', 'sms')),
        recipient text NOT NULL,
        claimed_until timestamptz NOT NULL, -- one worker at a time sends it
        sent_at timestamptz,
        reference text,
        refused_reason text,
        PRIMARY KEY (event_id, channel),
        CHECK (sent_at IS NULL OR refused_reason IS NULL)
    )
    """,
    """
    CREATE TABLE book_differences (
        kind text NOT NULL CHECK (kind IN (
            'unknown', 'unwritten', 'unwanted', 'amount', 'second', 'missing')),
        entry text NOT NULL CHECK (entry IN ('charge', 'refund')),
        transaction_id text NOT NULL, -- the gateway's name for the entry
        key text,
        payment_id uuid,
        ours numeric(12, 2), -- what we have of it, if we have anything
        theirs numeric(12, 2),
        currency text NOT NULL,
        made_at timestamptz NOT NULL,
        repair text, -- what was done about it
        noticed_at timestamptz NOT NULL DEFAULT now(),
        seen_at timestamptz NOT NULL DEFAULT now(), -- last
        settled_at timestamptz, -- when it was gone
        PRIMARY KEY (entry, transaction_id, kind)
    )
    """,
    """
    CREATE INDEX book_differences_open ON book_differences (noticed_at)
        WHERE settled_at IS NULL
    """,
)


def upgrade() -> None:
    """Create the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
