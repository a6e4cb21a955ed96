"""Payments that wait for their customer, and what gateways tell by themselves."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Of the customer's browser, to go on at the gateway with; erased with the outcome.
    "ALTER TABLE payments ADD COLUMN client_secret text",
    """
    ALTER TABLE payments
        DROP CONSTRAINT payments_status_check,
        ADD CONSTRAINT payments_status_check CHECK (status IN (
            'pending', 'processing', 'requires_action', 'completed', 'failed', 'refunded'))
            NOT VALID
    """,
    """
    CREATE TABLE gateway_events (
        gateway text NOT NULL,
        event_id text NOT NULL, -- the gateway's name for it
        type text NOT NULL,
        payment_id uuid NOT NULL, -- which may be none of ours
        paid_transaction_id text, -- where it says that money was taken
        happened_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        done text, -- what came of it, once somebody looked
        handled_at timestamptz, -- null while there is something left to do
        PRIMARY KEY (gateway, event_id)
    )
    """,
    "CREATE INDEX gateway_events_open ON gateway_events (received_at) WHERE handled_at IS NULL",
    "CREATE INDEX gateway_events_of_payment ON gateway_events (payment_id)",
    """
    CREATE INDEX gateway_events_by_end ON gateway_events (handled_at)
        WHERE handled_at IS NOT NULL
    """,
)


def upgrade() -> None:
    """Add them; the rows that are there are looked through without holding anybody up."""
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
        op.execute("ALTER TABLE payments VALIDATE CONSTRAINT payments_status_check")
