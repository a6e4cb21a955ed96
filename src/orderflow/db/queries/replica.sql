-- name: wal_position
-- array: whatever. How far the log is that is on disk: whatever was committed until now is in it.
SELECT a.n, pg_current_wal_flush_lsn()::text AS position
FROM unnest($1::integer[]) WITH ORDINALITY AS a(asked, n)

-- name: has_replayed
-- position. Whether a replica shows all that is in the log up to there.
SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false) AS yes

-- name: replayed_age
-- Seconds since what was replayed last was committed.
SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float AS age_s

-- name: server_identity
-- Which server this is: all replicas of a server have its number.
SELECT system_identifier, current_database() AS database, pg_is_in_recovery() AS is_replica
FROM pg_control_system()
