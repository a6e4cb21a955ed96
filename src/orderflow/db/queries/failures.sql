-- name: record_failures
-- arrays: queue, job id, job name, order id or null, attempt, whether it is the last, error type,
-- message, stack, fingerprint, place in the code, worker. Each failure, and the count of its group.
WITH asked AS (
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::integer[], $6::boolean[],
                $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[])
        WITH ORDINALITY AS a(queue, job_id, job_name, order_id, attempt, final, error_type,
                             message, stack, fingerprint, place, worker, n)
), kept AS (
    INSERT INTO job_failures (queue, job_id, job_name, order_id, attempt, final, error_type,
                              message, stack, fingerprint, worker)
    SELECT queue, job_id, job_name, order_id, attempt, final, error_type,
           message, stack, fingerprint, worker
    FROM asked
    ORDER BY n
), grouped AS (
    -- In the order of the fingerprints, so that two batches cannot wait for each other.
    INSERT INTO failure_groups AS g (fingerprint, queue, job_name, error_type, place, example,
                                     example_job_id, failures, finals)
    SELECT fingerprint, min(queue), min(job_name), min(error_type), min(place),
           (array_agg(message ORDER BY n DESC))[1], (array_agg(job_id ORDER BY n DESC))[1],
           count(*), count(*) FILTER (WHERE final)
    FROM asked
    GROUP BY fingerprint
    ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO UPDATE
    SET example = excluded.example, example_job_id = excluded.example_job_id,
        failures = g.failures + excluded.failures, finals = g.finals + excluded.finals,
        last_seen = now()
)
SELECT n FROM asked

-- name: failure_groups
-- queue or null, seen since or null, how many. The one that was seen last comes first.
SELECT * FROM failure_groups
WHERE ($1::text IS NULL OR queue = $1) AND ($2::timestamptz IS NULL OR last_seen >= $2)
ORDER BY last_seen DESC, fingerprint
LIMIT $3

-- name: failure_group
-- fingerprint
SELECT * FROM failure_groups WHERE fingerprint = $1

-- name: failures_of_group
-- fingerprint, id to go on before or null, how many. The newest first.
SELECT * FROM job_failures
WHERE fingerprint = $1 AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3

-- name: failures_of_job
-- queue, job id, how many. The newest first.
SELECT * FROM job_failures
WHERE job_id = $2 AND queue = $1
ORDER BY id DESC
LIMIT $3

-- name: failures_of_order
-- order id, how many. The newest first.
SELECT * FROM job_failures WHERE order_id = $1 ORDER BY id DESC LIMIT $2

-- name: jobs_of_group
-- fingerprint, id to go on after, the last id, how many. What failed for good, by the job's queue and id; a job
-- that did so twice comes twice.
SELECT id, queue, job_id, order_id FROM job_failures
WHERE fingerprint = $1 AND id > $2 AND id <= $3 AND final
ORDER BY id
LIMIT $4

-- name: purge_failures
-- seconds that they are kept, how many at most. The oldest have the smallest ids.
WITH old AS (
    SELECT id FROM (SELECT id, at FROM job_failures ORDER BY id LIMIT $2) first
    WHERE at < now() - make_interval(secs => $1)
), gone AS (
    DELETE FROM job_failures f USING old WHERE f.id = old.id RETURNING f.id
), forgotten AS (
    DELETE FROM failure_groups WHERE last_seen < now() - make_interval(secs => $1)
), over AS (
    DELETE FROM bulk_actions WHERE started_at < now() - make_interval(secs => $1)
)
SELECT id FROM gone

-- name: begin_bulk_action
-- id, action, fingerprint, queue, actor, reason, jobs a second, jobs
INSERT INTO bulk_actions (id, action, fingerprint, queue, actor, reason, per_second, state, jobs)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', $8)
RETURNING *, now() AS now

-- name: go_on_with_bulk_action
-- id, done, skipped, refused, refusals. Says whether someone wants it stopped.
UPDATE bulk_actions
SET done = $2, skipped = $3, refused = $4, refusals = $5, updated_at = now()
WHERE id = $1 AND state = 'running'
RETURNING *, now() AS now

-- name: end_bulk_action
-- id, done, skipped, refused, refusals, state
UPDATE bulk_actions
SET done = $2, skipped = $3, refused = $4, refusals = $5, state = $6,
    updated_at = now(), ended_at = now()
WHERE id = $1 AND state = 'running'
RETURNING *, now() AS now

-- name: stop_bulk_action
-- id
UPDATE bulk_actions SET stop_wanted = true WHERE id = $1 AND state = 'running' RETURNING *, now() AS now

-- name: bulk_action
-- id
SELECT *, now() AS now FROM bulk_actions WHERE id = $1

-- name: bulk_actions
-- how many. The newest first.
SELECT *, now() AS now FROM bulk_actions ORDER BY started_at DESC, id LIMIT $1
