"""Products, orders, payments, idempotency keys and notifications."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE products (
        sku text PRIMARY KEY CHECK (length(sku) BETWEEN 1 AND 64),
        name text NOT NULL CHECK (name <> ''),
        price numeric(12, 2) NOT NULL CHECK (price >= 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        stock integer CHECK (stock >= 0) -- null where the shop keeps no count
    ) WITH (fillfactor = 70)
    """,
    # Ids are UUIDv7, so new rows go to the right edge of the primary keys. Statuses change often:
    # no index holds one, and the pages have room, so that an update stays on its page (HOT).
    """
    CREATE TABLE orders (
        id uuid PRIMARY KEY,
        external_id text, -- the id of a foreign producer where it is no UUID
        source text NOT NULL CHECK (source IN ('checkout', 'external')),
        user_id text,
        status text NOT NULL CHECK (status IN (
            'pending', 'processing', 'confirmed', 'shipped', 'delivered', 'cancelled')),
        total numeric(12, 2) NOT NULL CHECK (total >= 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        email text,
        phone text,
        shipping_address jsonb,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        notified_at timestamptz, -- when the customer was told how it ended
        CONSTRAINT checkout_knows_its_customer
            CHECK (source <> 'checkout' OR (user_id IS NOT NULL AND email IS NOT NULL)),
        CONSTRAINT told_only_of_an_end
            CHECK (notified_at IS NULL OR status NOT IN ('pending', 'processing'))
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX orders_of_user ON orders (user_id, id DESC)",
    # What the reconciler looks at: small, since an order leaves it when its customer is told.
    "CREATE INDEX orders_unsettled ON orders (created_at, id) WHERE notified_at IS NULL",
    """
    CREATE TABLE order_items (
        order_id uuid NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
        line smallint NOT NULL CHECK (line > 0),
        sku text NOT NULL,
        name text NOT NULL, -- as it was called and priced at checkout
        quantity integer NOT NULL CHECK (quantity > 0),
        unit_price numeric(12, 2) NOT NULL CHECK (unit_price >= 0),
        took_stock boolean NOT NULL,
        PRIMARY KEY (order_id, line)
    )
    """,
    """
    CREATE TABLE payments (
        id uuid PRIMARY KEY,
        external_id text,
        order_id uuid NOT NULL UNIQUE REFERENCES orders (id), -- one payment an order
        method text NOT NULL CHECK (method IN ('card', 'online', 'wallet', 'cash')),
        token text, -- what the gateway charges; erased with the outcome
        amount numeric(12, 2) NOT NULL CHECK (amount >= 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        status text NOT NULL CHECK (status IN (
            'pending', 'processing', 'completed', 'failed', 'refunded')),
        transaction_id text,
        decline_reason text,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT taken_money_has_a_transaction
            CHECK (status NOT IN ('completed', 'refunded')
                   OR transaction_id IS NOT NULL OR method = 'cash'),
        CONSTRAINT failure_has_a_reason
            CHECK (status <> 'failed' OR decline_reason IS NOT NULL)
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE TABLE idempotency_keys (
        user_id text NOT NULL,
        key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
        fingerprint bytea NOT NULL,
        answer jsonb NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, key)
    )
    """,
    "CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at)",
    """
    CREATE TABLE notifications (
        order_id uuid NOT NULL REFERENCES orders (id),
        kind text NOT NULL CHECK (kind IN ('order-confirmation', 'payment-failed')),
        channel text NOT NULL CHECK (channel IN ('email', 'sms')),
        recipient text NOT NULL,
        claimed_until timestamptz NOT NULL, -- one worker at a time sends it
        sent_at timestamptz,
        reference text, -- the sender's name for it, as a Message-ID
        refused_reason text,
        PRIMARY KEY (order_id, kind, channel),
        CHECK (sent_at IS NULL OR refused_reason IS NULL)
    )
    """,
    """
    CREATE VIEW order_details AS
    SELECT
        o.id, o.source, o.user_id, o.status, o.total, o.currency, o.email, o.phone,
        o.shipping_address, o.created_at, o.updated_at,
        p.id AS payment_id, p.method AS payment_method, p.status AS payment_status,
        p.decline_reason,
        coalesce(i.items, '[]') AS items
    FROM orders o
    JOIN payments p ON p.order_id = o.id
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(
            jsonb_build_object('sku', sku, 'name', name, 'quantity', quantity,
                               'unit_price', unit_price::text)
            ORDER BY line
        ) AS items
        FROM order_items WHERE order_id = o.id
    ) i ON true
    """,
)


def upgrade() -> None:
    """Create everything."""
    for statement in STATEMENTS:
        op.execute(statement)
