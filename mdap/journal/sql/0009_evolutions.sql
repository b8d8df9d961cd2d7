-- Evolutions: `mdap evolve` trains a local model on the votes of runs.
CREATE TABLE evolutions (
    id           INTEGER PRIMARY KEY,
    evolution_id TEXT NOT NULL UNIQUE,          -- the name by which people and commands know it
    model        TEXT NOT NULL,                 -- local/NAME, as loaded
    weights      TEXT NOT NULL,                 -- digest of the model's files
    recipe       TEXT NOT NULL,                 -- JSON: the method and its settings
    about        TEXT NOT NULL,                 -- JSON: task, runs, kept tasks, digest of the lessons
    mdap_version TEXT NOT NULL,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
;
-- One row per update of the weights. The base model and the coefficients are enough to rebuild the weights.
CREATE TABLE iterations (
    evolution    INTEGER NOT NULL REFERENCES evolutions(id),
    iteration    INTEGER NOT NULL,              -- from 1
    rewards      BLOB NOT NULL,                 -- float64, little-endian: mean P(winner) of each perturbation
    coefficients BLOB NOT NULL,                 -- float16, little-endian: one for each pair of perturbations
    distance     REAL NOT NULL,                 -- distance of the weights from the base: Euclidean norm
    seconds      REAL NOT NULL,                 -- computing time of the update
    measured     TEXT NOT NULL,                 -- JSON: P(right) on held-out steps and on kept tasks
    weights      TEXT NOT NULL,                 -- SHA-256 of the weights after the update
    digest       TEXT NOT NULL,                 -- 256-bit BLAKE2b of the evolution, this row, and those before
    PRIMARY KEY (evolution, iteration)
) WITHOUT ROWID
;
-- Events of an evolution as a whole.
CREATE TABLE evolution_events (
    id        INTEGER PRIMARY KEY,
    evolution INTEGER NOT NULL REFERENCES evolutions(id),
    kind      TEXT NOT NULL,                    -- started | resumed | finished | refused
    at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    data      TEXT NOT NULL                     -- JSON; finished and refused: the report
)
;
CREATE INDEX evolution_events_by_evolution ON evolution_events(evolution, kind)
;
CREATE TRIGGER evolutions_no_update BEFORE UPDATE ON evolutions
BEGIN SELECT RAISE(ABORT, 'evolutions is append-only'); END
;
CREATE TRIGGER evolutions_no_delete BEFORE DELETE ON evolutions
BEGIN SELECT RAISE(ABORT, 'evolutions is append-only'); END
;
CREATE TRIGGER iterations_no_update BEFORE UPDATE ON iterations
BEGIN SELECT RAISE(ABORT, 'iterations is append-only'); END
;
CREATE TRIGGER iterations_no_delete BEFORE DELETE ON iterations
BEGIN SELECT RAISE(ABORT, 'iterations is append-only'); END
;
CREATE TRIGGER evolution_events_no_update BEFORE UPDATE ON evolution_events
BEGIN SELECT RAISE(ABORT, 'evolution_events is append-only'); END
;
CREATE TRIGGER evolution_events_no_delete BEFORE DELETE ON evolution_events
BEGIN SELECT RAISE(ABORT, 'evolution_events is append-only'); END
;
