-- The writes of one commit, each statement for many rows. A statement begins at its "-- name:" line; its
-- line of VALUES is repeated for every row. Rows of zeros only pad a statement: WHERE skips them, and
-- no run has the number 0.
-- mdap/records/facts.py names the columns of a sample; {columns} and similar parts follow from it.
-- Each row looks up its text's number once: inside VALUES, each row would open its own cursor, and the
-- cost per row would grow with their number.

-- name: texts
INSERT INTO texts(digest, body)
SELECT * FROM (
VALUES (?, ?)
) WHERE column1 IS NOT 0
ON CONFLICT(digest) DO NOTHING

-- name: steps
INSERT INTO steps(run, step, opening, key, input, prompt_digest)
SELECT * FROM (
VALUES (?, ?, ?, ?, ?, ?)
) WHERE column1 IS NOT 0

-- name: prompts
INSERT INTO prompts(run, step, opening, view, system, user, schema, max_tokens)
SELECT column1, column2, column3, column4, (SELECT id FROM texts WHERE digest = nullif(column5, -1)),
       (SELECT id FROM texts WHERE digest = column6), (SELECT id FROM texts WHERE digest = nullif(column7, -1)),
       column8
FROM (
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
) WHERE column1 IS NOT 0

-- name: samples
INSERT INTO samples({columns})
SELECT {values}
FROM (
VALUES ({marks})
) WHERE column1 IS NOT 0

-- name: pending
INSERT INTO pending({columns})
SELECT {values}
FROM (
VALUES ({marks})
) WHERE column1 IS NOT 0

-- name: confirm
INSERT INTO samples({columns})
SELECT {columns}
FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: void
INSERT INTO samples({columns})
SELECT {voided}
FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: resolved
DELETE FROM pending WHERE (run, step, opening) IN (
VALUES (?, ?, ?)
)

-- name: decisions
INSERT INTO decisions(run, place, step, opening, winner, tally, votes, margin, author, reason, digest)
SELECT column1, column2, column3, column4, column5, column6, column7, column8, nullif(column9, -1),
       nullif(column10, -1), column11
FROM (
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
) WHERE column1 IS NOT 0

-- name: events
INSERT INTO run_events(run, kind, author, reason, step, opening, data)
SELECT * FROM (
VALUES (?, ?, ?, ?, ?, ?, ?)
) WHERE column1 IS NOT 0

-- name: outcomes
UPDATE runs SET outcome = said.column2 FROM (
VALUES (?, ?)
) AS said WHERE runs.id = said.column1 AND runs.outcome IS NOT said.column2
