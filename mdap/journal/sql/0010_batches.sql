-- Jobs of vendors' batch APIs, recorded before their submission, so that a resume finds them instead of
-- paying twice. Not part of the record: a row's reply becomes a sample, whose request_id is the row's custom_id.
CREATE TABLE batch_jobs (
    id       INTEGER PRIMARY KEY,
    token    TEXT NOT NULL UNIQUE,              -- mdap's name of the job, also in its metadata and its file's name
    model    TEXT NOT NULL,                     -- the model that replies, as in samples
    wave     INTEGER NOT NULL,                  -- the jobs of one wave leave together
    requests INTEGER NOT NULL,
    at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))  -- when mdap was about to submit it
)
;
-- The requests of a job.
CREATE TABLE batch_rows (
    custom_id TEXT PRIMARY KEY,                 -- its id in the vendor's job
    job       INTEGER NOT NULL REFERENCES batch_jobs(id),
    run       INTEGER NOT NULL REFERENCES runs(id),
    key       TEXT NOT NULL,                    -- the step's, as in steps
    digest    TEXT NOT NULL,                    -- the digest of the step's prompts
    view      INTEGER NOT NULL,
    ordinals  TEXT NOT NULL                     -- the requested samples of the step, as a JSON list
) WITHOUT ROWID
;
CREATE INDEX batch_rows_by_run ON batch_rows(run)
;
CREATE INDEX batch_rows_by_job ON batch_rows(job)
;
-- Events of a job; the newest row has its state.
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
