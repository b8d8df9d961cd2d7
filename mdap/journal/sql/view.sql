-- Reads of the viewer: a range of keys or a LIMIT bounds every statement, and each reads in one short
-- transaction, so that a viewer never blocks the writer.

-- name: view_runs
SELECT r.id, r.run_id, r.kind, r.task, r.params, r.provider, r.k, r.created_at, r.parent, r.outcome,
    {last_event} AS last_event,
    {last_turn} AS last_turn,
    {steps_decided} AS steps,
    (SELECT count(*) FROM runs c WHERE c.parent = r.id) AS children
FROM runs r WHERE r.parent IS ?1 AND r.id < ?2 ORDER BY r.id DESC LIMIT ?3

-- name: view_listed
-- The data of listed runs, in any order.
SELECT r.id AS number, r.run_id, r.kind, r.task, r.params, r.provider, r.k, r.created_at, r.outcome AS said,
    {last_event} AS last_event,
    coalesce({last_turn}, 0) AS turn,
    (SELECT sum(data->>'seconds') FROM run_events e WHERE e.run = r.id AND e.kind IN
     ({ends})) AS seconds,
    coalesce((SELECT data->>'undecided' FROM run_events e WHERE e.run = r.id AND e.kind = 'finished'
     ORDER BY e.id DESC LIMIT 1), 0) AS undecided,
    (SELECT data->>'prices' FROM run_events e WHERE e.run = r.id AND e.kind IN ('started', 'resumed')
     ORDER BY e.id DESC LIMIT 1) AS prices,
    EXISTS (SELECT 1 FROM run_events e WHERE e.run = r.id AND e.kind = 'escalated') AS escalated,
    {steps_decided} AS decided,
    coalesce((SELECT max(step) + 1 FROM steps s WHERE s.run = r.id), 0) AS opened,
    (SELECT count(*) FROM runs c WHERE c.parent = r.id) AS children
FROM json_each(?1) j CROSS JOIN runs r ON r.id = j.value

-- name: view_turned
-- Top-level runs that changed since an event, newest first.
SELECT r.id FROM (SELECT DISTINCT run FROM run_events WHERE id > ?1 AND kind IN
        ({statuses}, 'settled')
    ) t CROSS JOIN runs r ON r.id = t.run WHERE r.parent IS NULL ORDER BY r.id DESC LIMIT ?2

-- name: newest_event
SELECT max(id) FROM run_events

-- name: view_roots
SELECT id FROM runs WHERE parent IS NULL AND id > ?1 ORDER BY id DESC LIMIT ?2

-- name: sums_of_decisions
SELECT d.run, {total} AS total,
    votes, margin, count(*) AS decisions
FROM json_each(?1) j CROSS JOIN decisions d ON d.run = j.value WHERE d.author IS NULL GROUP BY 1, 2, 3, 4

-- name: sums_of_batches
-- Samples that came by batch APIs, which charge a share of the price.
SELECT s.run, s.model, {tokens}
FROM json_each(?1) j CROSS JOIN batch_rows b ON b.run = j.value CROSS JOIN samples s ON s.run = b.run AND s.request_id = b.custom_id
GROUP BY 1, 2

-- name: sums_of_samples
SELECT s.run, model, count(*) AS samples, sum(verdict = 'vote') AS votes, {tokens}
FROM json_each(?1) j CROSS JOIN samples s ON s.run = j.value GROUP BY 1, 2

-- name: sums_beside
SELECT e.run, data->>'model' AS model, {billed}
FROM json_each(?1) j CROSS JOIN run_events e ON e.run = j.value
WHERE {is_billed}
GROUP BY 1, 2

-- name: view_attempts
SELECT step, opening, ordinal, counted, verdict, answer_key, flag_reason, model, began, latency, attempts
FROM samples WHERE run = ?1 AND step >= ?2 AND step < ?3 ORDER BY step, opening, ordinal LIMIT ?4

-- name: view_failures
SELECT step, opening, CASE WHEN json_valid(data) THEN data->>'ordinal' END AS ordinal,
    CASE WHEN json_valid(data) THEN data->>'kind' END AS kind,
    CASE WHEN json_valid(data) THEN data->>'began' END AS began,
    CASE WHEN json_valid(data) THEN data->>'ended' END AS ended, substr(reason, 1, 200) AS reason
FROM run_events INDEXED BY attempts_by_step
WHERE run = ?1 AND step >= ?2 AND step < ?3 AND kind = 'attempt_failed' ORDER BY id LIMIT ?4

-- name: walk_differences
-- Steps of two runs of the same numbers that were decided differently. Otherwise the planner would search for each of them
-- among all decisions.
SELECT d.place AS at, d.step, e.step AS other, substr(d.winner, 1, 300) AS winner, d.votes, d.margin,
    substr(e.winner, 1, 300) AS other_winner, e.votes AS other_votes, e.margin AS other_margin,
    p.prompt_digest = q.prompt_digest AS same_question
FROM decisions d CROSS JOIN decisions e INDEXED BY decisions_by_step ON e.run = ?5 AND e.step = d.step
CROSS JOIN steps p ON {same_opening}
CROSS JOIN steps q ON q.run = e.run AND q.step = e.step AND q.opening = e.opening
WHERE d.run = ?1 AND d.place >= ?2 AND d.place < ?3 AND e.winner <> d.winner ORDER BY d.place LIMIT ?4

-- name: differences_by_name
-- The same for steps with equal names, all in one query: to find the names takes longest.
WITH own AS MATERIALIZED (SELECT key, min(step) AS step FROM steps WHERE run = ?1 GROUP BY key),
    theirs AS MATERIALIZED (SELECT key, min(step) AS step FROM steps WHERE run = ?3 GROUP BY key)
SELECT d.step, e.step AS other, substr(d.winner, 1, 300) AS winner, d.votes, d.margin,
    substr(e.winner, 1, 300) AS other_winner, e.votes AS other_votes, e.margin AS other_margin,
    p.prompt_digest = q.prompt_digest AS same_question
FROM own CROSS JOIN theirs USING (key)
CROSS JOIN decisions d INDEXED BY decisions_by_step ON d.run = ?1 AND d.step = own.step
CROSS JOIN decisions e INDEXED BY decisions_by_step ON e.run = ?3 AND e.step = theirs.step
CROSS JOIN steps p ON {same_opening}
CROSS JOIN steps q ON q.run = e.run AND q.step = e.step AND q.opening = e.opening
WHERE own.step >= ?2 AND e.winner <> d.winner ORDER BY d.step LIMIT ?4

-- name: view_named
-- Whether the steps of a run have names other than their numbers.
SELECT key <> CAST(step AS TEXT) AS named FROM steps WHERE run = ?1 LIMIT 1

-- name: last_happened
SELECT max(id) AS id FROM run_events WHERE run = ?1 AND kind NOT IN ('sealed', 'signed')

-- name: report_parts
WITH RECURSIVE tree(run) AS (SELECT id FROM runs WHERE parent = ?1 UNION
    SELECT r.id FROM runs r JOIN tree ON r.parent = tree.run)
SELECT r.id, r.run_id FROM tree CROSS JOIN runs r ON r.id = tree.run ORDER BY r.id LIMIT ?2

-- name: report_settled
SELECT d.run, d.step, p.input, d.winner, d.tally, d.author, d.reason
FROM json_each(?1) j CROSS JOIN decisions d ON d.run = j.value CROSS JOIN steps p ON {same_opening}
WHERE d.author <> 'mdap' ORDER BY d.run, d.place LIMIT ?2

-- name: report_divided
SELECT d.run, d.step, p.input, d.winner, d.tally, d.author, d.reason, d.votes, d.margin, {total} AS total
FROM json_each(?1) j CROSS JOIN decisions d ON d.run = j.value CROSS JOIN steps p ON {same_opening}
WHERE d.author IS NULL AND d.votes > d.margin ORDER BY d.votes - d.margin DESC, d.run, d.place LIMIT ?2

-- name: report_undecided
SELECT p.run, p.step, max(p.opening) AS opening, p.input, NULL AS author, NULL AS reason
FROM json_each(?1) j CROSS JOIN steps p ON p.run = j.value
WHERE {undecided_step}
AND (SELECT kind FROM run_events e WHERE e.run = p.run AND e.kind IN
    ({statuses}) ORDER BY e.id DESC LIMIT 1)
    IN ('finished', 'undecided')
GROUP BY p.run, p.step ORDER BY p.run, p.step LIMIT ?2

-- name: view_alike
SELECT id FROM runs WHERE task = ?1 AND id <> ?2 AND kind IN ('run', 'batch') ORDER BY id DESC LIMIT ?3

-- name: view_branches
-- The outcomes of a run's steps by ranges of their numbers.
SELECT p.step / ?2 AS branch, count(DISTINCT p.step) AS steps, count(d.place) AS decided,
    coalesce(sum(d.author IS NULL AND d.votes > d.margin), 0) AS divided,
    coalesce(sum(d.author <> 'mdap'), 0) AS settled
FROM steps p LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
WHERE p.run = ?1 AND p.step >= ?3 AND p.step < ?4 GROUP BY 1 ORDER BY 1

-- name: view_offshoots
-- The parts of a run, grouped, with their statuses.
SELECT min(id) AS first, max(id) AS last, count(*) AS parts, sum(last_event = 'finished') AS finished,
    sum(last_event IN ('undecided', 'stopped', 'failed')) AS broken FROM (
    SELECT r.id, (row_number() OVER (ORDER BY r.id) - 1) / ?2 AS branch,
        {last_event} AS last_event
    FROM runs r WHERE r.parent = ?1) GROUP BY branch ORDER BY branch LIMIT ?3

-- name: view_run
SELECT {run},
    coalesce({last_turn}, 0) AS turn,
    (SELECT max(at) FROM run_events e WHERE e.run = r.id AND e.kind IN ('started', 'resumed')) AS since,
    {steps_decided} AS decided,
    (SELECT max(step) FROM decisions d WHERE d.run = r.id) AS last_decided,
    coalesce((SELECT max(step) + 1 FROM steps s WHERE s.run = r.id), 0) AS opened,
    (SELECT run_id FROM runs p WHERE p.id = r.parent) AS parent_name,
    (SELECT count(*) FROM runs c WHERE c.parent = r.id) AS children
FROM runs r WHERE r.id = ?1

-- name: view_ended_parts
-- By the event, so that a later read covers only new events. UNION, since UNION ALL would loop forever on
-- a forged run that is its own parent.
SELECT e.id AS event, e.run, max(coalesce((SELECT max(place) + 1 FROM decisions d WHERE d.run = e.run), 0),
    coalesce((SELECT max(step) + 1 FROM steps s WHERE s.run = e.run), 0)) AS end,
    EXISTS (SELECT 1 FROM run_events x WHERE x.run = e.run AND x.kind = 'escalated') AS escalated,
    (SELECT reason FROM run_events x WHERE x.run = e.run AND x.kind = 'warning' LIMIT 1) AS warning
FROM run_events e JOIN runs r ON r.id = e.run
WHERE e.id > ?2 AND e.kind IN ({ends}) AND r.parent IS NOT NULL AND ?1 IN (
    WITH RECURSIVE above(run) AS (SELECT r.parent UNION
        SELECT p.parent FROM above JOIN runs p ON p.id = above.run WHERE p.parent IS NOT NULL)
    SELECT run FROM above)
ORDER BY e.id LIMIT ?3

-- name: view_parts_by_status
SELECT coalesce(iif(p.outcome = 'unsolved', 'not solved', p.outcome), (SELECT kind FROM run_events e WHERE e.run = p.id AND e.kind IN
    ({statuses}) ORDER BY e.id DESC LIMIT 1), 'started') AS last_event,
    count(*) AS runs
FROM (SELECT id, outcome FROM runs WHERE parent = ?1 ORDER BY id LIMIT ?2) p GROUP BY 1 ORDER BY runs DESC

-- name: view_event_kinds
SELECT kind, count(*) AS events FROM run_events WHERE run = ?1 GROUP BY kind ORDER BY kind

-- name: view_events
SELECT id, kind, at, author, substr(reason, 1, 2000) AS reason, step, opening, data FROM run_events
WHERE run = ?1 AND kind IN (SELECT value FROM json_each(?2)) AND id < ?3 ORDER BY id DESC LIMIT ?4

-- name: view_main_events
SELECT kind, at, author, substr(reason, 1, 2000) AS reason, step, opening, data FROM run_events
WHERE run = ?1 AND kind IN (SELECT DISTINCT kind FROM run_events WHERE run = ?1 AND kind <> 'attempt_failed')
ORDER BY id DESC LIMIT ?2

-- name: view_warnings
SELECT reason FROM run_events WHERE run = ?1 AND kind = 'warning' GROUP BY reason ORDER BY min(id) LIMIT 100

-- name: fold_decisions
-- For one run in a range of places, or for many short ones completely. A race without a vote against the
-- winner has no other candidate, so its tally need not be read. A result recorded without a vote has
-- the author mdap, and is not settled by a person.
SELECT coalesce(author <> 'mdap', 0) AS settled,
    {total} AS total,
    votes, margin, count(*) AS decisions
FROM json_each(?1) j CROSS JOIN decisions d ON d.run = j.value AND place >= ?2 AND place < ?3 GROUP BY 1, 2, 3, 4

-- name: fold_doubtful
-- The fields of mdap.viewer.summary.DividedDecision.
SELECT d.run, place, step, votes, votes - margin AS rival,
    coalesce((SELECT sum(value) FROM json_each(tally)), 0) AS total, author, substr(winner, 1, 200) AS winner
FROM json_each(?1) j CROSS JOIN decisions d ON d.run = j.value AND place >= ?2 AND place < ?3
WHERE votes > margin OR author <> 'mdap'
ORDER BY author IS NULL, votes - margin DESC, d.run, place LIMIT ?4

-- name: fold_samples
-- Latencies to two digits, so that a million samples have few different ones.
SELECT model, verdict, flag_reason,
    CASE WHEN latency < 0.1 THEN CAST(latency * 1000 AS INTEGER)
         WHEN latency < 1 THEN CAST(latency * 100 AS INTEGER) * 10
         WHEN latency < 10 THEN CAST(latency * 10 AS INTEGER) * 100
         ELSE CAST(latency AS INTEGER) * 1000 END AS milliseconds,
    count(*) AS samples, {tokens},
    coalesce(sum(latency), 0.0) AS seconds, min(began) AS first, max(began + latency * 1000) AS last
FROM json_each(?1) j CROSS JOIN samples s ON s.run = j.value AND step >= ?2 AND step < ?3 GROUP BY 1, 2, 3, 4

-- name: view_steps
SELECT p.step, p.opening, substr(p.key, 1, 200) AS key, substr(p.input, 1, 400) AS input, d.place, d.votes,
    d.margin, nullif(d.author, 'mdap') AS author, substr(d.winner, 1, 400) AS winner,
    {total} AS total,
    (SELECT count(*) FROM samples s WHERE s.run = p.run AND s.step = p.step AND s.opening = p.opening) AS samples,
    (SELECT count(*) FROM samples s WHERE s.run = p.run AND s.step = p.step AND s.opening = p.opening
     AND s.verdict = 'flag') AS red_flags
-- CROSS JOIN, or SQLite would read all steps and look up each of them among the wanted ones.
FROM json_each(?2) j CROSS JOIN steps p ON p.run = ?1 AND p.step = j.value
LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
ORDER BY p.step, p.opening

-- name: walk_divided
SELECT place AS at, step FROM decisions
WHERE run = ?1 AND place >= ?2 AND place < ?3 AND votes > margin ORDER BY place LIMIT ?4

-- name: walk_overridden
SELECT place AS at, step FROM decisions
WHERE run = ?1 AND place >= ?2 AND place < ?3 AND author <> 'mdap' ORDER BY place LIMIT ?4

-- name: walk_flagged
SELECT step AS at, step FROM samples
WHERE run = ?1 AND step >= ?2 AND step < ?3 AND verdict = 'flag' GROUP BY step ORDER BY step LIMIT ?4

-- name: walk_undecided
SELECT step AS at, step FROM steps p WHERE run = ?1 AND step >= ?2 AND step < ?3
AND {undecided_step}
GROUP BY step ORDER BY step LIMIT ?4

-- name: walk_texts
SELECT s.step AS at, s.step, s.opening, min(s.ordinal) AS ordinal, count(*) AS hits,
    substr(t.body, max(1, instr(lower(t.body), lower(?6)) - 80), 240) AS excerpt
FROM samples s JOIN texts t ON t.id = s.text
WHERE s.run = ?1 AND s.step >= ?2 AND s.step < ?3 AND t.body LIKE ?5 ESCAPE '\'
GROUP BY s.step ORDER BY s.step LIMIT ?4

-- name: view_openings
SELECT p.step, p.opening, p.key, p.input, p.prompt_digest, d.place, d.winner, d.tally, d.votes, d.margin,
    nullif(d.author, 'mdap') AS author, d.reason, d.digest, d.author IS 'mdap' AS noted
FROM steps p LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
WHERE p.run = ?1 AND p.step = ?2 ORDER BY d.place IS NULL, p.opening DESC LIMIT ?3

-- name: view_samples
SELECT s.*, t.digest AS text_digest, substr(t.body, 1, ?5) AS body, length(t.body) AS characters,
    substr(h.body, 1, ?5) AS thoughts
FROM samples s {texts}
WHERE s.run = ?1 AND s.step = ?2 AND s.opening = ?3 ORDER BY s.counted IS NULL, s.counted, s.ordinal LIMIT ?4

-- name: view_pending
SELECT s.*, t.digest AS text_digest, substr(t.body, 1, ?5) AS body, length(t.body) AS characters,
    substr(h.body, 1, ?5) AS thoughts
FROM pending s {texts}
WHERE s.run = ?1 AND s.step = ?2 AND s.opening = ?3 ORDER BY s.counted IS NULL, s.counted, s.ordinal LIMIT ?4

-- name: view_rulings
SELECT id, kind, at, author, until, until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS live, answer, reason, about, goes_on
FROM rulings WHERE run = ?1 AND step = ?2 ORDER BY id DESC LIMIT 100

-- name: view_text
SELECT body FROM texts WHERE id = ?1
