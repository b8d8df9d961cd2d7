-- The rows that a seal covers: see mdap.rules.digests. The order of columns and rows is part of the seal.

-- name: sealed_run
SELECT run_id, kind, parent, task, task_version, params, settings, provider, k, mdap_version, created_at
FROM runs WHERE id = ?1

-- name: sealed_events
SELECT kind, at, author, reason, step, opening, data FROM run_events WHERE run = ?1 ORDER BY id

-- name: sealed_openings
-- Openings without a decision.
SELECT p.step, p.opening, p.key, p.input, p.prompt_digest FROM steps p
WHERE p.run = ?1 AND {undecided_opening} ORDER BY p.step, p.opening

-- name: sealed_samples_not_counted
SELECT {sealed} FROM samples s INDEXED BY samples_not_counted
WHERE s.run = ?1 AND s.counted IS NULL ORDER BY s.step, s.opening, s.ordinal

-- name: sealed_samples_undecided
-- Counted samples of undecided steps. Materialized, or the planner would read all samples instead of the few openings.
WITH p AS MATERIALIZED (SELECT * FROM steps p WHERE p.run = ?1 AND {undecided_opening}) SELECT {sealed} FROM p
CROSS JOIN samples s ON s.run = p.run AND s.step = p.step AND s.opening = p.opening
WHERE s.counted IS NOT NULL ORDER BY s.step, s.opening, s.ordinal

-- name: sealed_samples_pending
-- Samples on an input that is still a guess.
SELECT {sealed} FROM pending s WHERE s.run = ?1 ORDER BY s.step, s.opening, s.ordinal

-- name: sealed_prompts
-- A run without recorded prompts has the same seal as in earlier versions.
SELECT step, opening, view, (SELECT digest FROM texts t WHERE t.id = p.system),
    (SELECT digest FROM texts t WHERE t.id = p.user), (SELECT digest FROM texts t WHERE t.id = p.schema),
    max_tokens FROM prompts p WHERE run = ?1 ORDER BY step, opening, view

-- name: sealed_times
-- Request times of the samples of some steps, joined with commas.
SELECT min(step), group_concat(coalesce(began, '')), count(began) FROM (SELECT step, began
    FROM samples WHERE run = ?1 AND step >= ?2 AND step < ?2 + ?3 ORDER BY step, opening, ordinal)

-- name: sealed_parts
-- The parts of a run, each with its newest seal among the events up to one.
SELECT r.run_id, iif(json_valid(e.data), e.data ->> 'seal', e.data)
FROM runs r JOIN run_events e ON e.id = (SELECT max(x.id) FROM run_events x
    WHERE x.run = r.id AND x.kind = 'sealed' AND x.id <= ?2)
WHERE r.parent = ?1 ORDER BY r.id

-- name: last_sampled_step
SELECT max(step) FROM samples WHERE run = ?1

-- name: last_event_but
SELECT kind FROM run_events WHERE run = ?1 AND kind <> ?2 ORDER BY id DESC LIMIT 1
