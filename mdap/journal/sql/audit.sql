-- Reads of verification and statistics, a page or a run at a time.

-- name: decisions_between
SELECT {decision} FROM decisions d WHERE run = ?1 AND place >= ?2 AND place < ?3 ORDER BY place

-- name: openings_between
SELECT {opening} FROM steps p WHERE run = ?1 AND step >= ?2 AND step < ?3 ORDER BY step, opening

-- name: samples_between
SELECT {sample} FROM samples s {texts}
WHERE s.run = ?1 AND s.step >= ?2 AND s.step < ?3 ORDER BY s.step, s.opening, s.ordinal

-- name: prompts_between
SELECT {prompt} WHERE p.run = ?1 AND p.step >= ?2 AND p.step < ?3 ORDER BY p.step, p.opening, p.view

-- name: decisions_with_openings
SELECT {decision}, {opening}
FROM decisions d LEFT JOIN steps p ON {same_opening} WHERE d.run = ?1 AND d.place >= ?2 ORDER BY d.place LIMIT ?3

-- name: openings_undecided
SELECT {opening} FROM steps p WHERE run = ?1 AND {undecided_opening}

-- name: decision_at
SELECT d.step, d.digest, d.winner, p.input FROM decisions d LEFT JOIN steps p ON {same_opening}
WHERE d.run = ?1 AND d.place = ?2

-- name: decision_of
SELECT d.step, d.winner, d.digest FROM decisions d JOIN runs r ON r.id = d.run WHERE r.run_id = ?1 AND d.place = ?2

-- name: digest_after
SELECT digest FROM decisions WHERE run = ?1 AND place = ?2 - 1

-- name: first_opening
SELECT p.input, d.winner, d.tally, d.reason, d.author FROM steps p LEFT JOIN decisions d ON {same_opening}
WHERE p.run = ?1 AND p.step = ?2 AND p.opening = 0

-- name: head_digest
SELECT digest FROM decisions WHERE run = ?1 ORDER BY place DESC LIMIT 1

-- name: last_place
SELECT coalesce(max(place) + 1, 0) FROM decisions WHERE run = ?1

-- name: count_rows_of_decisions
SELECT count(*) FROM decisions WHERE run = ?1

-- name: parts_of_tree
{tree} SELECT run FROM tree WHERE run <> ?1 ORDER BY run

-- name: samples_without_opening
SELECT step, opening, ordinal FROM samples s WHERE run = ?1 AND NOT EXISTS
    (SELECT 1 FROM steps p WHERE p.run = s.run AND p.step = s.step AND p.opening = s.opening) LIMIT 100

-- name: prompts_without_opening
SELECT DISTINCT step, opening FROM prompts s WHERE run = ?1 AND NOT EXISTS
    (SELECT 1 FROM steps p WHERE p.run = s.run AND p.step = s.step AND p.opening = s.opening) LIMIT 100

-- name: pending_before
SELECT step, opening, ordinal FROM pending WHERE run = ?1 AND step < ?2

-- name: runs_missing
-- Skip from one run to the next in the table's index, without reading its rows.
WITH RECURSIVE found(run) AS (SELECT min(run) FROM {table} UNION ALL
    SELECT (SELECT min(run) FROM {table} WHERE run > found.run) FROM found WHERE run IS NOT NULL)
SELECT run FROM found WHERE run IS NOT NULL AND run NOT IN (SELECT id FROM runs) LIMIT 10

-- name: rows_missing
SELECT max(id) - count(*) FROM {table}

-- name: parents_missing
SELECT run_id, parent FROM runs WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM runs) LIMIT 10

-- name: part_called
-- A part of a run by its id: its task, the head of its digest chain, and its result.
SELECT task, (SELECT digest FROM decisions d WHERE d.run = r.id ORDER BY place DESC LIMIT 1),
    (SELECT data FROM run_events e WHERE e.run = r.id AND e.kind = 'finished' ORDER BY e.id DESC LIMIT 1), id
FROM runs r WHERE r.parent = ?1 AND r.run_id = ?2

-- name: last_status
SELECT kind, reason FROM run_events WHERE run = ?1 AND kind IN ({statuses}) ORDER BY id DESC LIMIT 1

-- name: events_of_kind
SELECT reason, data FROM run_events WHERE run = ?1 AND kind = ?2 ORDER BY id

-- name: part_of_step
SELECT r.id, r.settings FROM steps p JOIN decisions d ON d.run = p.run AND d.step = p.step
JOIN runs r ON r.parent = p.run AND d.reason LIKE 'run ' || r.run_id || ', digest %'
WHERE p.run = ?1 AND p.step = ?2

-- name: counted_vote
SELECT 1 FROM samples WHERE run = ?1 AND step = ?2 AND verdict = 'vote' AND counted > 0 LIMIT 1

-- name: voters_of_steps
-- Who voted on each step of a run and its parts, and the step's input.
{tree}
SELECT r.run_id, s.step, s.model, max(p.input) FROM tree JOIN samples s USING (run)
JOIN runs r ON r.id = s.run JOIN steps p ON p.run = s.run AND p.step = s.step AND p.opening = s.opening
WHERE s.verdict = 'vote' GROUP BY 1, 2, 3

-- name: weights_of_models
-- Digests of the weights of models in this process that a run and its parts asked.
{tree}
SELECT value ->> 'model', value ->> 'weights' FROM tree JOIN runs r ON r.id = tree.run, json_tree(r.provider)
WHERE type = 'object' AND value ->> 'weights' IS NOT NULL

-- name: samples_by_cell
{tree}
SELECT s.model, s.temperature, s.ordinal, s.verdict, d.place IS NOT NULL AND d.author IS NULL AS decided,
       count(*), sum(s.answer_key = key_of(d.winner)), {tokens}
FROM tree CROSS JOIN samples s ON s.run = tree.run
LEFT JOIN decisions d ON d.run = s.run AND d.step = s.step AND d.opening = s.opening
GROUP BY 1, 2, 3, 4, 5

-- name: red_flags
{tree}
SELECT s.model, s.flag_reason, count(*) FROM tree CROSS JOIN samples s ON s.run = tree.run
WHERE s.verdict = 'flag' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2

-- name: latencies
{tree}
SELECT s.model, CAST(round(s.latency * 1000) AS INTEGER), count(*)
FROM tree CROSS JOIN samples s ON s.run = tree.run WHERE s.latency IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2

-- name: votes_by_margin
{tree}
SELECT d.margin, CASE d.margin WHEN d.votes THEN d.votes ELSE
    (SELECT group_concat(value) FROM (SELECT value FROM json_each(d.tally) ORDER BY value DESC)) END,
    d.votes, count(*)
FROM tree CROSS JOIN decisions d ON d.run = tree.run WHERE d.author IS NULL GROUP BY 1, 2, 3

-- name: divided
{tree}
SELECT d.winner, d.run, d.step, d.opening FROM tree CROSS JOIN decisions d ON d.run = tree.run
WHERE d.author IS NULL AND d.margin < d.votes

-- name: votes_of_opening
SELECT model, answer_key FROM samples WHERE run = ?1 AND step = ?2 AND opening = ?3 AND verdict = 'vote'
ORDER BY ordinal

-- name: counts_beside_votes
{tree}
SELECT (SELECT count(*) FROM tree CROSS JOIN decisions d ON d.run = tree.run WHERE d.author <> 'mdap'),
       (SELECT count(*) FROM tree CROSS JOIN decisions d ON d.run = tree.run WHERE d.author = 'mdap'),
       (SELECT count(*) FROM tree CROSS JOIN run_events e ON e.run = tree.run WHERE e.kind = 'escalated'),
       (SELECT count(*) FROM tree CROSS JOIN run_events e ON e.run = tree.run
        WHERE e.kind = 'attempt_failed')

-- name: undecided_and_sampled
-- In a chain, only the step after the decided ones can: skip the others of a long chain.
{tree},
behind(run, first) AS MATERIALIZED (SELECT run, CASE WHEN
    (SELECT max(place) FROM decisions d WHERE d.run = tree.run) =
    (SELECT max(step) FROM decisions d WHERE d.run = tree.run)
    THEN (SELECT max(step) + 1 FROM decisions d WHERE d.run = tree.run) ELSE 0 END FROM tree)
SELECT r.run_id, p.run, p.step, p.opening, p.key, p.input,
    (SELECT max(e.id) FROM run_events e WHERE e.run = p.run AND e.kind = 'refused'
        AND e.data->>'step' = p.step AND e.data->>'opening' = p.opening) AS refused
FROM behind CROSS JOIN steps p ON p.run = behind.run AND p.step >= behind.first JOIN runs r ON r.id = p.run
WHERE ((SELECT e.kind = 'finished' OR e.kind = 'undecided' OR e.data->>'stop_cause' = 'override'
        FROM run_events e WHERE e.run = p.run AND e.kind IN ({statuses}) ORDER BY e.id DESC LIMIT 1)
    OR EXISTS (SELECT 1 FROM run_events e
        WHERE e.run = p.run AND e.kind = 'waiting' AND e.data->>'step' = p.step))
    AND {undecided_step}
    AND (refused IS NOT NULL OR EXISTS (SELECT 1 FROM samples s
        WHERE s.run = p.run AND s.step = p.step AND s.opening = p.opening AND s.counted IS NOT NULL))
ORDER BY p.run, p.step LIMIT ?2

-- name: decisions_with_tally
{tree}
SELECT r.run_id, d.run, d.step, d.opening, p.key, p.input, d.winner, d.tally, d.margin
FROM tree CROSS JOIN decisions d ON d.run = tree.run JOIN runs r ON r.id = d.run
LEFT JOIN steps p ON {same_opening}
WHERE d.author IS NULL AND d.votes = ?2 AND d.margin = ?3 AND {total} = ?4
ORDER BY d.run, d.place LIMIT ?5

-- name: reason_of_event
SELECT reason FROM run_events WHERE id = ?1

-- name: runs_to_settle
SELECT r.id, {last_event} FROM runs r WHERE r.id = ?1 OR ?1 IS NULL AND {whole} ORDER BY r.id DESC LIMIT ?2

-- name: latest_claim
SELECT id, kind, author, until, until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS live FROM rulings
WHERE run = ?1 AND step = ?2 AND kind IN ('claimed', 'released', 'settled') ORDER BY id DESC LIMIT 1

-- name: open_ruling
SELECT author FROM rulings r WHERE run = ?1 AND step = ?2 AND kind = 'ruled'
AND NOT EXISTS (SELECT 1 FROM rulings o WHERE o.run = r.run AND o.step = r.step AND o.about = r.id)
ORDER BY id DESC LIMIT 1

-- name: steps_overridden
SELECT DISTINCT e.data->>'overrides', e.data->>'step' FROM runs r CROSS JOIN run_events e
WHERE e.run = r.id AND e.kind = 'started' AND json_valid(e.data) AND e.data->>'overrides' IS NOT NULL

-- name: runs_to_learn_from
{tree} SELECT id FROM runs WHERE id IN tree AND kind <> 'batch' ORDER BY id

-- name: entries_of_runs
SELECT {run}, (SELECT run_id FROM runs p WHERE p.id = r.parent) AS parent_name
FROM runs r WHERE ?1 IS NULL OR r.id = ?1 ORDER BY id

-- name: entries_of_steps
SELECT {entry} FROM (SELECT * FROM decisions WHERE run = ?1 AND place > ?2 ORDER BY place LIMIT ?3) d
LEFT JOIN steps p ON {same_opening}
LEFT JOIN samples s ON s.run = d.run AND s.step = d.step AND s.opening = d.opening
GROUP BY d.place ORDER BY d.place

-- name: entry_of_step
SELECT {entry} FROM (SELECT * FROM decisions WHERE run = ?1 AND step = ?2) d
LEFT JOIN steps p ON {same_opening}
LEFT JOIN samples s ON s.run = d.run AND s.step = d.step AND s.opening = d.opening
GROUP BY d.place ORDER BY d.place

-- name: entries_of_samples
SELECT {sample} FROM samples s {texts}
WHERE s.run = ?1 AND (s.step, s.opening, s.ordinal) > (?2, ?3, ?4)
ORDER BY s.step, s.opening, s.ordinal LIMIT ?5

-- name: names_of_runs
SELECT run_id FROM runs WHERE parent IS NULL ORDER BY id DESC LIMIT ?1
