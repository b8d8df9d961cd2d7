-- What one commit writes, each statement for many rows at once. A statement begins at its "-- name:" line; its
-- line of VALUES is written once for every row.

-- name: texts
INSERT INTO texts(digest, body)
VALUES (?, ?)
ON CONFLICT(digest) DO NOTHING

-- name: steps
INSERT INTO steps(run, step, opening, key, input, prompt_digest)
VALUES (?, ?, ?, ?, ?, ?)

-- name: samples
INSERT INTO samples(run, step, opening, counted, ordinal, verdict, answer_key, flag_reason, model, view,
       temperature, input_tokens, output_tokens, cached_tokens, latency, attempts, request_id,
       finish_reason, text)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM texts WHERE digest = ?))

-- name: pending
INSERT INTO pending(run, step, opening, counted, ordinal, verdict, answer_key, flag_reason, model, view,
       temperature, input_tokens, output_tokens, cached_tokens, latency, attempts, request_id,
       finish_reason, text)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT id FROM texts WHERE digest = ?))

-- name: confirm
INSERT INTO samples
SELECT * FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: void
INSERT INTO samples
SELECT run, step, opening, NULL, ordinal, 'void', answer_key, flag_reason, model, view, temperature,
       input_tokens, output_tokens, cached_tokens, latency, attempts, request_id, finish_reason, text
FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: resolved
DELETE FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: decisions
INSERT INTO decisions(run, place, step, opening, winner, tally, votes, margin, author, reason, digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: events
INSERT INTO run_events(run, kind, author, reason, step, opening, data)
VALUES (?, ?, ?, ?, ?, ?, ?)
