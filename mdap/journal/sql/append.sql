-- What one commit writes. Each statement takes a whole batch as one JSON array, so that SQLite works on
-- it outside Python's interpreter lock. A statement begins at its "-- name:" line.

-- name: texts
INSERT INTO texts(digest, body)
SELECT value->>0, value->>1 FROM json_each(?1) WHERE true
ON CONFLICT(digest) DO NOTHING

-- name: steps
INSERT INTO steps(run, step, opening, key, input, prompt_digest)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?1)

-- name: samples
INSERT INTO samples(run, step, opening, counted, ordinal, verdict, answer_key, flag_reason, model, view,
       temperature, input_tokens, output_tokens, cached_tokens, latency, attempts, request_id,
       finish_reason, text)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
       value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, value->>15, value->>16,
       value->>17, (SELECT id FROM texts WHERE digest = value->>18)
FROM json_each(?1)

-- name: pending
INSERT INTO pending(run, step, opening, counted, ordinal, verdict, answer_key, flag_reason, model, view,
       temperature, input_tokens, output_tokens, cached_tokens, latency, attempts, request_id,
       finish_reason, text)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
       value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, value->>15, value->>16,
       value->>17, (SELECT id FROM texts WHERE digest = value->>18)
FROM json_each(?1)

-- name: confirm
INSERT INTO samples
SELECT p.* FROM json_each(?1) j CROSS JOIN pending p
WHERE p.run = j.value->>0 AND p.step = j.value->>1 AND p.opening = j.value->>2

-- name: void
INSERT INTO samples
SELECT p.run, p.step, p.opening, NULL, p.ordinal, 'void', p.answer_key, p.flag_reason, p.model,
       p.view, p.temperature, p.input_tokens, p.output_tokens, p.cached_tokens, p.latency, p.attempts,
       p.request_id, p.finish_reason, p.text
FROM json_each(?1) j CROSS JOIN pending p
WHERE p.run = j.value->>0 AND p.step = j.value->>1 AND p.opening = j.value->>2

-- name: resolved
DELETE FROM pending
WHERE (run, step, opening) IN (SELECT value->>0, value->>1, value->>2 FROM json_each(?1))

-- name: decisions
INSERT INTO decisions(run, place, step, opening, winner, tally, votes, margin, author, reason, digest)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
       value->>9, value->>10
FROM json_each(?1)

-- name: events
INSERT INTO run_events(run, kind, author, reason, step, opening, data)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6 FROM json_each(?1)
