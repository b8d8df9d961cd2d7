-- name: batch_jobs
-- The jobs in a JSON list of numbers, or all.
SELECT j.id, j.token, j.model, j.wave, j.requests, CAST(strftime('%s', j.at) AS INTEGER) AS intended
FROM batch_jobs j WHERE ?1 IS NULL OR j.id IN (SELECT value FROM json_each(?1)) ORDER BY j.id

-- name: batch_events_of
SELECT job, kind, data FROM batch_events WHERE job IN (SELECT value FROM json_each(?1)) ORDER BY id

-- name: batch_rows_of_run
SELECT custom_id, job, run, key, digest, view, ordinals FROM batch_rows WHERE run = ?1

-- name: batch_rows_of_job
SELECT custom_id, job, run, key, digest, view, ordinals FROM batch_rows WHERE job = ?1

-- name: batched_samples
SELECT request_id, ordinal FROM samples WHERE run = ?1 AND request_id >= 'mdap-' AND request_id < 'mdap.'
UNION ALL
SELECT request_id, ordinal FROM pending WHERE run = ?1 AND request_id >= 'mdap-' AND request_id < 'mdap.'

-- name: vendor_ids
SELECT data->>'vendor_id' FROM batch_events WHERE kind = 'submitted'

-- name: last_wave
SELECT coalesce(max(wave), 0) FROM batch_jobs
