-- The vote log. Append-only: triggers at the end refuse UPDATE and DELETE on every table of record.
-- Statements end with a line that holds ";" alone, so that trigger bodies need no parsing.

-- One row per run. It fixes the settings that decide its votes, and mdap checks them on resume.
CREATE TABLE runs (
    id           INTEGER PRIMARY KEY,
    run_id       TEXT NOT NULL UNIQUE,          -- the name by which people and commands know it
    kind         TEXT NOT NULL,                 -- run | pilot | batch | calibration
    parent       INTEGER REFERENCES runs(id),   -- the process or batch it belongs to; NULL for none
    task         TEXT NOT NULL,                 -- plugin name, module:Class or file:Class
    task_version TEXT NOT NULL,
    params       TEXT NOT NULL,                 -- JSON: the task's parameters
    settings     TEXT NOT NULL,                 -- JSON: k, samples allowed, tokens, temperatures
    provider     TEXT NOT NULL,                 -- JSON: the source of samples, without secrets
    k            INTEGER NOT NULL,              -- the margin every decision must reach
    mdap_version TEXT NOT NULL,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
;

CREATE INDEX runs_by_parent ON runs(parent) WHERE parent IS NOT NULL
;

-- Events of a run as a whole, and every attempt that failed in transport.
CREATE TABLE run_events (
    id      INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL REFERENCES runs(id),
    kind    TEXT NOT NULL,                      -- started | resumed | finished | undecided | stopped |
                                                -- failed | attempt_failed | escalated |
                                                -- settled | sealed | warning | ...
    at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    author  TEXT,                               -- who caused it; NULL for mdap itself
    reason  TEXT,
    step    INTEGER,
    opening INTEGER,
    data    TEXT                                -- JSON
)
;
CREATE INDEX run_events_by_run ON run_events(run, kind)
;

-- Content-addressed texts, each stored once: replies of models.
CREATE TABLE texts (
    id     INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,                -- 128-bit BLAKE2b of the UTF-8 text, hexadecimal
    body   TEXT NOT NULL
)
;

-- One row per opening of a step. mdap opens a step again (opening 1, 2, ...) when its first input,
-- a guess, turned out wrong.
CREATE TABLE steps (
    run           INTEGER NOT NULL REFERENCES runs(id),
    step          INTEGER NOT NULL,             -- number of the step in its run, from 0
    opening       INTEGER NOT NULL,
    key           TEXT NOT NULL,                -- the step's name within its run
    input         TEXT NOT NULL,                -- canonical JSON of the state it was opened on
    prompt_digest TEXT NOT NULL,                -- 128-bit BLAKE2b of the prompt, hexadecimal
    PRIMARY KEY (run, step, opening)
) WITHOUT ROWID
;

-- One row per paid sample.
CREATE TABLE samples (
    run           INTEGER NOT NULL REFERENCES runs(id),
    step          INTEGER NOT NULL,
    opening       INTEGER NOT NULL,
    counted       INTEGER,                      -- place in the order of counting, from 1; NULL: not counted
    ordinal       INTEGER NOT NULL,             -- which sample of the step, from 0
    verdict       TEXT NOT NULL CHECK (verdict = 'vote' OR verdict = 'flag' OR verdict = 'cancelled' OR verdict = 'void'),
    answer_key    TEXT,                         -- 64-bit BLAKE2b of the answer's canonical JSON
    flag_reason   TEXT,
    model         TEXT NOT NULL,
    view          INTEGER NOT NULL,             -- the view of the step in the prompt, from 0
    temperature   REAL NOT NULL,
    input_tokens  INTEGER,
    output_tokens INTEGER,
    cached_tokens INTEGER,
    latency       REAL,                         -- seconds
    attempts      INTEGER NOT NULL,             -- attempts it took, the last one included
    request_id    TEXT,
    finish_reason TEXT,
    text          INTEGER REFERENCES texts(id),
    PRIMARY KEY (run, step, opening, ordinal),
    FOREIGN KEY (run, step, opening) REFERENCES steps(run, step, opening)
) WITHOUT ROWID
;

-- Samples outside the digest chain, for the seal.
CREATE INDEX samples_not_counted ON samples(run) WHERE counted IS NULL
;

-- One row per decision. The digest chain covers them in the order of place.
CREATE TABLE decisions (
    run     INTEGER NOT NULL REFERENCES runs(id),
    place   INTEGER NOT NULL,                   -- counts the decisions of the run, from 0
    step    INTEGER NOT NULL,
    opening INTEGER NOT NULL,
    winner  TEXT NOT NULL,                      -- canonical JSON of the answer
    tally   TEXT NOT NULL,                      -- JSON object: candidate's canonical JSON -> votes
    votes   INTEGER NOT NULL,                   -- votes for the winner
    margin  INTEGER NOT NULL,                   -- its lead over every other candidate
    author  TEXT,                               -- the person who settled the step; NULL: a vote
    reason  TEXT,                               -- that person's reason
    digest  TEXT NOT NULL,                      -- 256-bit BLAKE2b of this decision and all before it
    PRIMARY KEY (run, place),
    FOREIGN KEY (run, step, opening) REFERENCES steps(run, step, opening)
) WITHOUT ROWID
;
CREATE UNIQUE INDEX decisions_by_step ON decisions(run, step, opening)
;

-- Samples of steps whose input is still a guess. Not part of the record: each row moves to samples,
-- unchanged or as void, as soon as its input is known. This table keeps it safe from a crash until then.
CREATE TABLE pending (
    run INTEGER NOT NULL, step INTEGER NOT NULL, opening INTEGER NOT NULL, counted INTEGER,
    ordinal INTEGER NOT NULL, verdict TEXT NOT NULL, answer_key TEXT, flag_reason TEXT,
    model TEXT NOT NULL, view INTEGER NOT NULL, temperature REAL NOT NULL,
    input_tokens INTEGER, output_tokens INTEGER, cached_tokens INTEGER,
    latency REAL, attempts INTEGER NOT NULL, request_id TEXT, finish_reason TEXT, text INTEGER,
    PRIMARY KEY (run, step, opening, ordinal)
) WITHOUT ROWID
;

-- Every sample with its text and the run's name: the table to browse.
CREATE VIEW sample_texts AS
SELECT r.run_id, s.step, s.opening, s.ordinal, s.verdict, s.counted, s.answer_key, s.flag_reason,
       s.model, s.view, s.temperature, s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts,
       s.request_id, s.finish_reason, t.body AS text
FROM samples s JOIN runs r ON r.id = s.run LEFT JOIN texts t ON t.id = s.text
;

-- Every decided step with its input and answer.
CREATE VIEW decided_steps AS
SELECT r.run_id, d.place, d.step, d.opening, p.key, p.input, d.winner AS answer, d.tally, d.votes, d.margin, d.author, d.reason, d.digest
FROM decisions d JOIN runs r ON r.id = d.run
JOIN steps p ON p.run = d.run AND p.step = d.step AND p.opening = d.opening
;

-- The totals of a run.
CREATE VIEW run_totals AS
SELECT r.id AS run, r.run_id,
       (SELECT count(*) FROM decisions d WHERE d.run = r.id) AS steps,
       count(s.verdict) AS samples,
       coalesce(sum(s.verdict = 'vote'), 0) AS votes,
       coalesce(sum(s.verdict = 'flag'), 0) AS red_flags,
       coalesce(sum(s.verdict = 'void'), 0) AS void,
       coalesce(sum(s.verdict = 'cancelled'), 0) AS cancelled,
       (SELECT count(*) FROM run_events e WHERE e.run = r.id AND e.kind = 'attempt_failed')
           AS failed_attempts,
       coalesce(sum(s.input_tokens), 0) AS input_tokens,
       coalesce(sum(s.output_tokens), 0) AS output_tokens
FROM runs r LEFT JOIN samples s ON s.run = r.id
GROUP BY r.id
;

CREATE TRIGGER runs_no_update BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'runs is append-only'); END
;
CREATE TRIGGER runs_no_delete BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'runs is append-only'); END
;
CREATE TRIGGER run_events_no_update BEFORE UPDATE ON run_events
BEGIN SELECT RAISE(ABORT, 'run_events is append-only'); END
;
CREATE TRIGGER run_events_no_delete BEFORE DELETE ON run_events
BEGIN SELECT RAISE(ABORT, 'run_events is append-only'); END
;
CREATE TRIGGER texts_no_update BEFORE UPDATE ON texts BEGIN SELECT RAISE(ABORT, 'texts is append-only'); END
;
CREATE TRIGGER texts_no_delete BEFORE DELETE ON texts BEGIN SELECT RAISE(ABORT, 'texts is append-only'); END
;
CREATE TRIGGER steps_no_update BEFORE UPDATE ON steps BEGIN SELECT RAISE(ABORT, 'steps is append-only'); END
;
CREATE TRIGGER steps_no_delete BEFORE DELETE ON steps BEGIN SELECT RAISE(ABORT, 'steps is append-only'); END
;
CREATE TRIGGER samples_no_update BEFORE UPDATE ON samples
BEGIN SELECT RAISE(ABORT, 'samples is append-only'); END
;
CREATE TRIGGER samples_no_delete BEFORE DELETE ON samples
BEGIN SELECT RAISE(ABORT, 'samples is append-only'); END
;
CREATE TRIGGER decisions_no_update BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions is append-only'); END
;
CREATE TRIGGER decisions_no_delete BEFORE DELETE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions is append-only'); END
;
