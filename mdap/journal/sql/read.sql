-- name: run_called
-- The number of the run with exactly this id.
SELECT id FROM runs WHERE run_id = ?1

-- name: run_of
SELECT {run} FROM runs r WHERE r.id = ?1

-- name: runs
SELECT {run},
    {steps_decided} AS steps
FROM runs r WHERE r.parent IS NULL ORDER BY r.id DESC LIMIT ?1

-- name: unfinished
SELECT {run}
FROM runs r WHERE r.parent IS NULL AND r.kind IN ('run', 'batch') AND coalesce(
    (SELECT kind FROM run_events e WHERE e.run = r.id AND e.kind IN
    ({statuses}, 'settled') ORDER BY e.id DESC LIMIT 1),
    'started') IN ('started', 'resumed', 'stopped', 'settled')
ORDER BY r.id

-- name: parts
SELECT {run},
    {steps_decided} AS steps
FROM runs r WHERE r.parent = ?2 ORDER BY r.id LIMIT ?1

-- name: ended_part
-- A part of a run by its id, or what overrides it, newest first: its id, version and parameters, how it finished
-- if it did, and whether it is sealed.
WITH named(id) AS (SELECT id FROM runs WHERE run_id = ?2 UNION ALL
    SELECT id FROM runs WHERE run_id >= ?2 || '-override-' AND run_id < ?2 || '-override.')
SELECT r.run_id, r.task_version, r.params,
    CASE {last_event} WHEN 'finished' THEN (SELECT data FROM run_events e
        WHERE e.run = r.id AND e.kind = 'finished' ORDER BY e.id DESC LIMIT 1) END AS ended,
    (SELECT kind FROM run_events e WHERE e.run = r.id AND e.kind <> 'signed' ORDER BY e.id DESC LIMIT 1)
        = 'sealed' AS sealed
FROM named CROSS JOIN runs r ON r.id = named.id WHERE r.parent = ?1 ORDER BY r.id DESC

-- name: is_independent
-- Whether a run is a part whose result stays in its own run.
SELECT 1 FROM (SELECT ?1 AS run) AS tree WHERE {independent}

-- name: undecided_in_parts
-- The steps without a winner in the finished parts of a run, and in theirs.
SELECT coalesce(sum((SELECT data->>'undecided' FROM run_events e WHERE e.run = r.id
    AND e.kind = 'finished' ORDER BY e.id DESC LIMIT 1)), 0) FROM runs r
WHERE r.parent = ?1 AND NOT {overridden}

-- name: paid_by_parts
-- The payments of the independent parts of a run, and of theirs.
{tree} SELECT e.run, e.data FROM tree CROSS JOIN runs r ON r.id = tree.run
CROSS JOIN run_events e ON e.run = tree.run AND e.kind = 'paid'
WHERE tree.run <> ?1 AND {independent} AND NOT {overridden} ORDER BY e.id

-- name: count_independent
-- The independent parts of a run, and of theirs, with steps of their own.
{tree} SELECT count(*) FROM tree CROSS JOIN runs r ON r.id = tree.run
WHERE tree.run <> ?1 AND {independent} AND NOT {overridden} AND EXISTS (SELECT 1 FROM steps s WHERE s.run = tree.run)

-- name: count_parts
SELECT count(*) FROM runs WHERE parent = ?1

-- name: find
-- Runs that a name can mean: the run with that id, else the newest one for `latest`, else those with that prefix.
WITH exact(id) AS (SELECT id FROM runs WHERE run_id = ?1)
SELECT id FROM exact UNION ALL
SELECT id FROM (SELECT id FROM runs WHERE {whole} AND (?1 = 'latest' OR substr(run_id, 1, length(?1)) = ?1)
    AND NOT EXISTS (SELECT 1 FROM exact) ORDER BY id DESC LIMIT iif(?1 = 'latest', 1, 2))

-- name: find_evolution
-- The same for evolutions.
WITH exact(name) AS (SELECT evolution_id FROM evolutions WHERE evolution_id = ?1)
SELECT name FROM exact UNION ALL
SELECT evolution_id FROM (SELECT evolution_id FROM evolutions
    WHERE (?1 = 'latest' OR substr(evolution_id, 1, length(?1)) = ?1)
    AND NOT EXISTS (SELECT 1 FROM exact) ORDER BY id DESC LIMIT iif(?1 = 'latest', 1, 2))

-- name: calibrations
SELECT r.*, 'finished' AS last_event, NULL AS stop_cause, e.data->'result' AS result
FROM runs r JOIN run_events e ON e.run = r.id AND e.kind = 'finished'
WHERE r.kind = 'calibration' AND r.task = ?1 AND r.params = ?2 ORDER BY r.id DESC LIMIT 50

-- name: latest_of_task
SELECT r.run_id FROM runs r WHERE r.kind IN ('run', 'pilot') AND r.task = ?1 AND r.params = ?2
  AND EXISTS (SELECT 1 FROM decisions d WHERE d.run = r.id) ORDER BY r.kind DESC, r.id DESC LIMIT 1

-- name: input_at
SELECT p.input FROM decisions d
JOIN steps p ON {same_opening} WHERE d.run = ?1 AND d.place = ?2

-- name: heard
SELECT CASE WHEN author IS NULL THEN margin END AS k, count(*) AS decisions, sum(votes) AS won,
       sum({total}) AS votes
FROM decisions WHERE run = ?1 GROUP BY 1

-- name: margins
SELECT data FROM run_events WHERE run = ?1 AND kind = 'margin' ORDER BY id

-- name: paid
SELECT data FROM run_events WHERE run = ?1 AND kind = 'paid' ORDER BY id

-- name: baseline
SELECT data FROM run_events WHERE run = ?1 AND kind = 'baseline' ORDER BY id LIMIT 1

-- name: raised
SELECT data FROM run_events WHERE run = ?1 AND kind = 'warning' AND data IS NOT NULL

-- name: flags_decided
SELECT count(*) FROM samples s JOIN decisions d ON d.run = s.run AND d.step = s.step AND d.opening = s.opening
WHERE s.run = ?1 AND s.verdict = 'flag'

-- name: totals
{paid}
SELECT verdict, count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)
FROM paid GROUP BY verdict

-- name: some_replies
-- As many as are remembered of a model.
{tree}
SELECT model, output_tokens FROM tree JOIN samples USING (run) WHERE output_tokens IS NOT NULL LIMIT 256

-- name: usage_by_model
{paid}
SELECT model, {tokens},
       coalesce(sum(input_tokens > 0), 0) AS prompts, coalesce(sum(input_tokens = 0), 0) AS shared
FROM paid GROUP BY model ORDER BY model

-- name: batched_usage
-- What came by batch APIs, which charge a share of the price.
{paid}
SELECT s.model, {tokens}
FROM paid s JOIN batch_rows b ON b.custom_id = s.request_id GROUP BY s.model

-- name: batch_costs
-- Tokens of the samples that each job brought, with the prices of the run.
SELECT b.job, s.model, {tokens},
       (SELECT data->>'prices' FROM run_events e WHERE e.run = b.run AND kind IN ('started', 'resumed')
        ORDER BY id DESC LIMIT 1) AS prices
FROM (SELECT DISTINCT run FROM batch_rows) r CROSS JOIN samples s ON s.run = r.run
CROSS JOIN batch_rows b ON b.custom_id = s.request_id GROUP BY b.job, b.run, s.model

-- name: spent_beside
-- Tokens billed in events: for probes, and for unreadable replies.
{tree}
SELECT kind, data->>'model' AS model, coalesce(sum(data->>'samples'), 0) AS samples,
       coalesce(sum(data->>'failed_attempts'), 0) AS failed_attempts,
       {billed}
FROM tree JOIN run_events e ON e.run = tree.run
WHERE {is_billed} GROUP BY 1, 2
ORDER BY 1 DESC, 2

-- name: options_found
WITH RECURSIVE above(run) AS (SELECT ?1 UNION SELECT r.parent FROM above JOIN runs r ON r.id = above.run
    WHERE r.parent IS NOT NULL)
SELECT data->>'model' AS model, data->'options' AS options FROM above JOIN run_events USING (run)
WHERE kind = 'probe' AND data->>'options' <> '{}' ORDER BY id

-- name: prices
SELECT data->>'prices' FROM run_events WHERE run = ?1 AND kind IN ('started', 'resumed')
ORDER BY id DESC LIMIT 1

-- name: count_decisions
{tree}
SELECT coalesce(sum((SELECT max(place) + 1 FROM decisions d WHERE d.run = tree.run)), 0) FROM tree

-- name: count_failed_attempts
{tree}
SELECT count(*) FROM tree JOIN run_events USING (run) WHERE kind = 'attempt_failed'

-- name: count_escalations
{tree}
SELECT count(*) FROM tree JOIN run_events USING (run) WHERE kind = 'escalated'

-- name: last_decision
SELECT d.place, d.step, d.winner, d.digest, p.input
FROM decisions d JOIN steps p ON {same_opening}
WHERE d.run = ?1 ORDER BY d.place DESC LIMIT 1

-- name: last_seal
SELECT data->>'seal' FROM run_events WHERE run = ?1 AND kind = 'sealed' ORDER BY id DESC LIMIT 1

-- name: first_undecided
-- Of a run and its parts.
{tree} SELECT DISTINCT r.run_id, p.step FROM tree CROSS JOIN runs r ON r.id = tree.run
CROSS JOIN steps p ON p.run = tree.run WHERE {undecided_step} ORDER BY p.run, p.step LIMIT ?2

-- name: open_steps
SELECT {opening} FROM steps p WHERE run = ?1 AND step > ?2 ORDER BY step, opening

-- name: open_samples
SELECT {sample} FROM samples s {texts} WHERE s.run = ?1 AND s.step > ?2

-- name: open_pending
SELECT {sample} FROM pending s {texts} WHERE s.run = ?1

-- name: any_sample
SELECT 1 FROM samples WHERE run = ?1 LIMIT 1

-- name: any_vote
{tree}
SELECT ordinal FROM tree CROSS JOIN samples s ON s.run = tree.run AND verdict = 'vote' LIMIT 1

-- name: tiers_escalated_with_votes
{tree}
SELECT DISTINCT s.ordinal / ?2 FROM tree CROSS JOIN run_events e ON e.run = tree.run AND e.kind = 'escalated'
JOIN samples s ON s.run = e.run AND s.step = e.data->>'step' AND s.opening = e.data->>'opening'
WHERE s.verdict = 'vote'

-- name: voters
{tree}
SELECT model, count(*) FROM tree CROSS JOIN samples s ON s.run = tree.run
WHERE verdict = 'vote' GROUP BY model ORDER BY model

-- name: left_out
SELECT data->>'member', data->>'tier', reason FROM run_events WHERE run = ?1 AND kind = 'left_out' ORDER BY id

-- name: refusals
SELECT data->>'step', data->>'opening', data->>'member', data->>'view', data->>'model', reason FROM run_events
WHERE run = ?1 AND kind = 'refused' AND data->>'step' > ?2 ORDER BY id

-- name: escalated_to
SELECT data->>'step', data->>'opening', max(data->>'tier') FROM run_events
WHERE run = ?1 AND kind = 'escalated' AND data->>'step' > ?2 GROUP BY 1, 2

-- name: known
SELECT p.key, p.prompt_digest, p.step FROM decisions d
JOIN steps p ON {same_opening} WHERE d.run = ?1

-- name: next_step
SELECT coalesce(max(step) + 1, 0) FROM steps WHERE run = ?1

-- name: winner
SELECT winner, tally, author, reason, digest FROM decisions WHERE run = ?1 AND step = ?2

-- name: winning_sample
SELECT s.view, t.body FROM samples s JOIN texts t ON t.id = s.text
WHERE s.run = ?1 AND s.step = ?2 AND s.verdict = 'vote' AND s.answer_key = ?3 ORDER BY s.ordinal LIMIT 1

-- name: votes_of_step
SELECT DISTINCT s.view, t.body FROM samples s JOIN texts t ON t.id = s.text
WHERE s.run = ?1 AND s.step = ?2 AND s.verdict = 'vote' LIMIT 8

-- name: undecided_steps
SELECT {opening} FROM steps p WHERE run = ?1 AND step > ?2 AND {undecided_opening} ORDER BY step

-- name: undecided_samples
SELECT {sample} FROM samples s {texts}
WHERE s.run = ?1 AND s.step > ?2 AND NOT EXISTS
    (SELECT 1 FROM decisions d WHERE d.run = s.run AND d.step = s.step AND d.opening = s.opening)

-- name: without_effect
SELECT d.step, p.input, d.winner, d.tally, d.author FROM decisions d
JOIN steps p ON {same_opening}
WHERE d.run = ?1 AND d.step > coalesce((SELECT max(data->>'step') FROM run_events
    WHERE run = ?1 AND kind = 'effect'), -1) ORDER BY d.place

-- name: events
SELECT kind, at, author, reason, step, opening, data FROM run_events
WHERE run = ?1 AND kind NOT IN ('attempt_failed', 'effect') ORDER BY id

-- name: warnings
{tree}
SELECT reason FROM tree JOIN run_events USING (run) WHERE kind = 'warning' GROUP BY reason ORDER BY min(id) LIMIT 100

-- name: lane
SELECT CASE WHEN json_valid(data) THEN data->>'lane' END FROM run_events
WHERE run = ?1 AND kind IN ('started', 'resumed') ORDER BY id DESC LIMIT 1

-- name: folder
SELECT data->>'folder' FROM run_events
WHERE run = ?1 AND kind IN ('started', 'resumed') AND data->>'folder' IS NOT NULL ORDER BY id DESC LIMIT 1

-- name: last_ended
SELECT reason, data FROM run_events
WHERE run = ?1 AND kind IN ({ends}) ORDER BY id DESC LIMIT 1

-- name: seconds
SELECT coalesce(sum(data->>'seconds'), 0.0) FROM run_events
WHERE run = ?1 AND kind IN ({ends})

-- name: tallies
{tree}
SELECT votes, votes - margin AS runner_up,
       {total} AS total,
       count(*) AS steps
FROM tree JOIN decisions USING (run) WHERE author IS NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: steps_with_tally
{tree}
SELECT run_id, step, opening FROM tree JOIN decisions USING (run) JOIN runs ON runs.id = run
WHERE author IS NULL AND votes = ?2 AND votes - margin = ?3
  AND {total} = ?4
ORDER BY run, place LIMIT ?5

-- name: count_settled
{tree}
SELECT count(*) FROM tree JOIN decisions USING (run) WHERE author <> 'mdap'

-- name: polled
-- By step: its votes, and those of its winner or, without one, of its best answer. Other steps vote on a
-- proposal.
{tree}
SELECT {total} AS votes, votes AS best
FROM tree JOIN decisions USING (run) WHERE author IS NULL AND reason IS NOT 'proposal'
UNION ALL
SELECT sum(alike), max(alike) FROM (
    SELECT run, step, opening, count(*) AS alike FROM tree JOIN samples s USING (run)
    WHERE verdict = 'vote' AND NOT EXISTS (SELECT 1 FROM decisions d
        WHERE d.run = s.run AND d.step = s.step AND d.opening = s.opening)
    GROUP BY run, step, opening, answer_key)
GROUP BY run, step, opening

-- name: decided
SELECT d.place, d.step, d.opening, p.key, p.input, d.winner, d.tally, d.margin, d.author, d.reason, d.digest,
       p.prompt_digest
FROM decisions d JOIN steps p ON {same_opening}
WHERE d.run = ?1 AND d.place >= ?2 ORDER BY d.place LIMIT ?3

-- name: half_override
{tree}
SELECT 1 FROM run_events s WHERE s.run = ?1 AND s.kind = 'started' AND s.data->>'overrides' IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM tree JOIN run_events e USING (run) WHERE e.kind = 'settled')

-- name: source
SELECT r.id FROM run_events e JOIN runs r ON r.run_id = e.data->>'overrides'
WHERE e.run = ?1 AND e.kind = 'started' AND r.id < ?1 ORDER BY e.id LIMIT 1

-- name: whole_of
SELECT {run} FROM runs c JOIN runs r ON r.id = c.parent WHERE c.id = ?1 AND r.kind <> 'batch'

-- name: step_of_part
SELECT step FROM decisions WHERE run = ?1 AND author = 'mdap'
AND substr(reason, 1, length(?2) + 13) = 'run ' || ?2 || ', digest '

-- name: steps_called
-- In a run and its parts, but for parts that others override.
{tree} SELECT DISTINCT s.run, r.run_id, s.step FROM tree CROSS JOIN runs r ON r.id = tree.run
CROSS JOIN steps s ON s.run = tree.run AND s.key = ?2
WHERE tree.run = ?1 OR NOT {overridden} ORDER BY s.run, s.step

-- name: openings_of_step
SELECT p.step, p.opening, p.key, p.input, p.prompt_digest, d.winner, d.tally, d.margin, d.author, d.reason,
    d.author IS 'mdap' AS noted
FROM steps p LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
WHERE p.run = ?1 AND p.step = ?2 ORDER BY p.opening

-- name: samples_of_step
SELECT {sample} FROM samples s {texts}
WHERE s.run = ?1 AND s.step = ?2 ORDER BY s.opening, s.ordinal

-- name: prompts_of_step
SELECT {prompt} WHERE p.run = ?1 AND p.step = ?2 AND p.opening = ?3 ORDER BY p.view

-- name: replay_steps
SELECT {sample}, p.key, p.prompt_digest
FROM steps p JOIN samples s ON s.run = p.run AND s.step = p.step AND s.opening = p.opening
{texts}
LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
WHERE s.text IS NOT NULL AND p.run = ?1 AND p.step BETWEEN ?2 AND ?3 ORDER BY d.place IS NULL, p.step, p.opening

-- name: replay_step
WITH RECURSIVE family(id) AS (
    SELECT ?1 UNION SELECT r.id FROM runs r JOIN family f ON r.parent = f.id
)
SELECT {sample}, p.key, p.prompt_digest
FROM family f JOIN steps p ON p.run = f.id
JOIN samples s ON s.run = p.run AND s.step = p.step AND s.opening = p.opening
{texts}
LEFT JOIN decisions d ON d.run = p.run AND d.step = p.step AND d.opening = p.opening
WHERE s.text IS NOT NULL AND p.key = ?2 AND p.prompt_digest = ?3 ORDER BY d.place IS NULL, p.run, p.step, p.opening

-- name: events_after
SELECT id, kind, author, reason, step, opening, data FROM run_events WHERE run = ?1 AND id > ?2 ORDER BY id LIMIT ?3

-- name: standing
-- The last event that sets a run's status, and the seal after it.
SELECT e.id, e.kind, (SELECT min(s.id) FROM run_events s WHERE s.run = ?1 AND s.kind = 'sealed' AND s.id > e.id) AS sealed
FROM run_events e WHERE e.run = ?1 AND e.kind IN ({statuses})
ORDER BY e.id DESC LIMIT 1

-- name: decided_at
SELECT CASE WHEN json_valid(data) THEN data->>'decisions' END FROM run_events
WHERE run = ?1 AND kind = 'sealed' AND id > ?2 ORDER BY id LIMIT 1

-- name: decisions_after
SELECT {decision}, {opening}
FROM decisions d JOIN steps p ON {same_opening}
WHERE d.run = ?1 AND d.place >= ?2 ORDER BY d.place LIMIT ?3

-- name: samples_of_opening
SELECT {sample} FROM samples s {texts}
WHERE s.run = ?1 AND s.step = ?2 AND s.opening = ?3 ORDER BY s.counted IS NULL, s.counted, s.ordinal

-- name: first_open
SELECT min(step) FROM steps p WHERE run = ?1 AND step > ?2
AND {undecided_step}

-- name: openings_without_decision
SELECT {opening} FROM steps p
WHERE p.run = ?1 AND (p.step, p.opening) > (?2, ?3)
AND {undecided_opening}
ORDER BY p.step, p.opening LIMIT ?4

-- name: open_rulings
SELECT id, step, author, answer, reason FROM rulings r WHERE run = ?1 AND kind = 'ruled'
AND NOT EXISTS (SELECT 1 FROM rulings o WHERE o.run = r.run AND o.step = r.step AND o.about = r.id)
AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.run = r.run AND d.step = r.step) ORDER BY id

-- name: waits_for_person
SELECT 1 FROM run_events WHERE run = ?1 AND kind = 'waiting' AND data->>'step' = ?2 AND id >
    coalesce((SELECT max(id) FROM run_events WHERE run = ?1 AND kind IN ({statuses})), 0) LIMIT 1

-- name: settled_by
SELECT nullif(author, 'mdap') AS author FROM decisions WHERE run = ?1 AND step = ?2 LIMIT 1

-- name: tally_of
SELECT j.key AS answer FROM decisions d, json_each(d.tally) j WHERE d.run = ?1 AND d.step = ?2

-- name: recorded_by_now
SELECT coalesce((SELECT max(id) FROM run_events WHERE run = ?1), 0),
       coalesce((SELECT max(place) + 1 FROM decisions WHERE run = ?1), 0)
