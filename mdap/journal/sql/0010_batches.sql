-- Jobs of vendors' batch APIs, noted before they are submitted: so a killed process finds them again instead of
-- paying twice. Not part of the record: what a row brings is a sample, whose request_id is the row's custom_id.
CREATE TABLE batch_jobs (
    id       INTEGER PRIMARY KEY,
    token    TEXT NOT NULL UNIQUE,              -- what mdap calls the job; in its metadata and its file's name
    model    TEXT NOT NULL,                     -- who answers, as in samples
    wave     INTEGER NOT NULL,                  -- the jobs of one wave leave together
    requests INTEGER NOT NULL,
    at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))  -- when mdap was about to submit it
)
;
-- What each request of a job asks.
CREATE TABLE batch_rows (
    custom_id TEXT PRIMARY KEY,                 -- what the vendor knows it by
    job       INTEGER NOT NULL REFERENCES batch_jobs(id),
    run       INTEGER NOT NULL REFERENCES runs(id),
    key       TEXT NOT NULL,                    -- the step's, as in steps
    digest    TEXT NOT NULL,                    -- of the step's prompts
    view      INTEGER NOT NULL,
    ordinals  TEXT NOT NULL                     -- the samples of the step that it asks for, as a JSON list
) WITHOUT ROWID
;
CREATE INDEX batch_rows_by_run ON batch_rows(run)
;
CREATE INDEX batch_rows_by_job ON batch_rows(job)
;
-- What became of a job; the newest row tells its state.
CREATE TABLE batch_events (
    id   INTEGER PRIMARY KEY,
    job  INTEGER NOT NULL REFERENCES batch_jobs(id),
    at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    kind TEXT NOT NULL CHECK (kind IN ('uploaded', 'submitted', 'state', 'cancelling', 'collected', 'refused', 'abandoned')),
    data TEXT NOT NULL                          -- JSON: uploaded: file; submitted: vendor_id; state: state, counts; collected: answered, failed (by custom_id), unknown, doubled; refused, abandoned: reason
)
;
CREATE INDEX batch_events_by_job ON batch_events(job)
;
CREATE TRIGGER batch_jobs_no_update BEFORE UPDATE ON batch_jobs
BEGIN SELECT RAISE(ABORT, 'batch_jobs is append-only'); END
;
CREATE TRIGGER batch_jobs_no_delete BEFORE DELETE ON batch_jobs
BEGIN SELECT RAISE(ABORT, 'batch_jobs is append-only'); END
;
CREATE TRIGGER batch_rows_no_update BEFORE UPDATE ON batch_rows
BEGIN SELECT RAISE(ABORT, 'batch_rows is append-only'); END
;
CREATE TRIGGER batch_rows_no_delete BEFORE DELETE ON batch_rows
BEGIN SELECT RAISE(ABORT, 'batch_rows is append-only'); END
;
CREATE TRIGGER batch_events_no_update BEFORE UPDATE ON batch_events
BEGIN SELECT RAISE(ABORT, 'batch_events is append-only'); END
;
CREATE TRIGGER batch_events_no_delete BEFORE DELETE ON batch_events
BEGIN SELECT RAISE(ABORT, 'batch_events is append-only'); END
;
