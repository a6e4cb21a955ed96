"""What went wrong and who did what: failures, their groups, bulk actions and the audit log."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # One row an attempt that failed. Redis forgets a job a day after it failed.
    """
    CREATE TABLE job_failures (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        queue text NOT NULL,
        job_id text NOT NULL,
        job_name text NOT NULL,
        order_id uuid, -- of the order that its data name, which may be none of ours
        attempt integer NOT NULL,
        final boolean NOT NULL, -- no further attempt follows
        error_type text NOT NULL,
        message text NOT NULL,
        stack text NOT NULL,
        fingerprint text NOT NULL,
        worker text NOT NULL
    )
    """,
    "CREATE INDEX job_failures_of_job ON job_failures (job_id, id)",
    "CREATE INDEX job_failures_of_order ON job_failures (order_id, id) WHERE order_id IS NOT NULL",
    "CREATE INDEX job_failures_of_group ON job_failures (fingerprint, id)",
    # Counted as they come: to group millions of failures at each look would be too slow.
    """
    CREATE TABLE failure_groups (
        fingerprint text PRIMARY KEY,
        queue text NOT NULL,
        job_name text NOT NULL,
        error_type text NOT NULL,
        place text NOT NULL, -- in the code
        example text NOT NULL, -- the message of the last one
        example_job_id text NOT NULL,
        failures bigint NOT NULL,
        finals bigint NOT NULL,
        first_seen timestamptz NOT NULL DEFAULT now(),
        last_seen timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX failure_groups_by_age ON failure_groups (last_seen)",
    """
    CREATE TABLE audit_log (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        begun bigint UNIQUE REFERENCES audit_log (id), -- of an outcome: what began
        actor text NOT NULL,
        via text NOT NULL CHECK (via IN ('api', 'cli', 'page')),
        action text NOT NULL,
        target text NOT NULL,
        order_id uuid,
        reason text NOT NULL,
        outcome text NOT NULL CHECK (outcome IN (
            'begun', 'done', 'partly', 'stopped', 'refused', 'failed')),
        details jsonb NOT NULL DEFAULT '{}',
        CONSTRAINT an_outcome_is_of_what_began CHECK ((outcome = 'begun') = (begun IS NULL))
    )
    """,
    "CREATE INDEX audit_log_of_order ON audit_log (order_id, id) WHERE order_id IS NOT NULL",
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_log_is_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TABLE bulk_actions (
        id uuid PRIMARY KEY,
        action text NOT NULL CHECK (action IN ('retry', 'discard')),
        fingerprint text NOT NULL,
        queue text NOT NULL,
        actor text NOT NULL,
        reason text NOT NULL,
        per_second integer NOT NULL CHECK (per_second > 0),
        state text NOT NULL CHECK (state IN ('running', 'done', 'partly', 'stopped', 'failed')),
        jobs bigint NOT NULL, -- of the group, when it began
        done bigint NOT NULL DEFAULT 0,
        skipped jsonb NOT NULL DEFAULT '{}', -- how many by what they were instead
        refused bigint NOT NULL DEFAULT 0,
        refusals jsonb NOT NULL DEFAULT '[]', -- the first of them: job and reason
        stop_wanted boolean NOT NULL DEFAULT false,
        started_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz
    )
    """,
    "CREATE INDEX bulk_actions_by_age ON bulk_actions (started_at)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
