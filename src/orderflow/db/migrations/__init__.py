"""The schema of orderflow, as steps that Alembic runs; each step is hand-written SQL."""
