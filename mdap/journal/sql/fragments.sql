-- Shared parts of statements: {name} stands for one in the other files.

-- name: statuses
-- The events that set a run's status: the last one counts.
'started', 'resumed', 'finished', 'undecided', 'stopped', 'failed'

-- name: ends
'finished', 'undecided', 'stopped', 'failed'

-- name: last_event
-- For a run r. It may have none: its process was killed while it began.
(SELECT kind FROM run_events e WHERE e.run = r.id AND e.kind IN ({statuses}) ORDER BY e.id DESC LIMIT 1)

-- name: stop_cause
(SELECT CASE WHEN json_valid(data) THEN data->>'stop_cause' END FROM run_events e
    WHERE e.run = r.id AND e.kind IN ({statuses}) ORDER BY e.id DESC LIMIT 1)

-- name: run
-- The fields of mdap.journal.rows.RunRow.
r.*, {last_event} AS last_event, {stop_cause} AS stop_cause

-- name: last_turn
(SELECT max(id) FROM run_events e WHERE e.run = r.id AND e.kind IN ({statuses}, 'settled'))

-- name: steps_decided
coalesce((SELECT max(place) + 1 FROM decisions d WHERE d.run = r.id), 0)

-- name: whole
-- Runs that people name: top-level ones.
kind IN ('run', 'batch') AND parent IS NULL

-- name: tree
-- A run and its parts. UNION, since UNION ALL would loop forever on a forged run that is its own parent.
WITH RECURSIVE tree(run) AS (SELECT ?1 UNION SELECT r.id FROM runs r JOIN tree ON r.parent = tree.run)

-- name: paid
-- The samples of a run and its parts, those on a guess that is still open too: they are paid for.
{tree}, paid AS (
    SELECT {billing} FROM tree JOIN samples USING (run) UNION ALL SELECT {billing} FROM tree JOIN pending USING (run)
)

-- name: billing
verdict, model, request_id, input_tokens, output_tokens, cached_tokens, cache_write_tokens

-- name: overridden
-- For a run r: another part of the same run overrides it.
EXISTS (SELECT 1 FROM runs o WHERE +o.parent = r.parent
    AND o.run_id >= r.run_id || '-override-' AND o.run_id < r.run_id || '-override.'
    AND EXISTS (SELECT 1 FROM run_events s WHERE s.run = o.id AND s.kind = 'started' AND json_valid(s.data)
        AND s.data->>'overrides' IS NOT NULL))

-- name: independent
-- For a run in tree: its result stays in its own run.
EXISTS (SELECT 1 FROM run_events i WHERE i.run = tree.run AND i.kind = 'started' AND json_valid(i.data)
    AND i.data->>'independent')

-- name: total
-- All votes of a decision. If the margin equals the winner's votes, no other candidate has any.
CASE margin WHEN votes THEN votes ELSE (SELECT sum(value) FROM json_each(tally)) END

-- name: texts
-- Joins samples s with their texts.
LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning

-- name: prompt
-- The fields of mdap.records.PromptSent, and their tables.
p.run, p.step, p.opening, p.view, s.digest AS system_digest, u.digest AS user_digest,
    j.digest AS schema_digest, p.max_tokens, s.body AS system, u.body AS user, j.body AS schema
FROM prompts p LEFT JOIN texts s ON s.id = p.system LEFT JOIN texts u ON u.id = p.user
LEFT JOIN texts j ON j.id = p.schema

-- name: same_opening
p.run = d.run AND p.step = d.step AND p.opening = d.opening

-- name: undecided_opening
-- For an opening p: it has no decision.
NOT EXISTS (SELECT 1 FROM decisions d WHERE {same_opening})

-- name: undecided_step
-- For an opening p: no opening of its step has a decision.
NOT EXISTS (SELECT 1 FROM decisions d WHERE d.run = p.run AND d.step = p.step)

-- name: entry
-- The fields of mdap.StepEntry, from a decision d, its opening p and its samples s.
d.place, d.step, d.opening, p.key, p.input, d.winner, d.tally, d.margin, d.author, d.reason, d.digest,
    count(s.ordinal) AS samples, coalesce(sum(s.verdict = 'flag'), 0) AS red_flags

-- name: tokens
-- Of samples.
coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
    coalesce(sum(cached_tokens), 0) AS cached_tokens, coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens

-- name: billed
-- Tokens in the data of events.
coalesce(sum(data->>'input_tokens'), 0) AS input_tokens, coalesce(sum(data->>'output_tokens'), 0) AS output_tokens,
    coalesce(sum(data->>'cached_tokens'), 0) AS cached_tokens,
    coalesce(sum(data->>'cache_write_tokens'), 0) AS cache_write_tokens

-- name: is_billed
CASE WHEN json_valid(data) THEN coalesce(data->>'input_tokens', data->>'output_tokens') END IS NOT NULL
