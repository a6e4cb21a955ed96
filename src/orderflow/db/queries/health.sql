-- name: server_health
-- The server's version, the size of the database, and connections: how many are open, and may be.
SELECT
    split_part(current_setting('server_version'), ' ', 1) AS version,
    pg_database_size(current_database()) AS size_bytes,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
    current_setting('max_connections')::int AS max_connections
