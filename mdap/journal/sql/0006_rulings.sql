-- Claims and answers of people for waiting steps, from a page, a program or a tool. Not part of the record:
-- people see here who has a step, and a process that works on a run finds their answers. The final answer
-- has its author and reason in decisions.
CREATE TABLE rulings (
    id     INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL REFERENCES runs(id),
    step   INTEGER NOT NULL,
    kind   TEXT NOT NULL CHECK (kind = 'claimed' OR kind = 'released' OR kind = 'ruled' OR kind = 'settled' OR kind = 'refused'),
    at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    author TEXT NOT NULL,                       -- the person
    until  TEXT,                                -- claimed: when the claim expires
    answer TEXT,                                -- ruled: the answer as JSON, or candidate: and an answer's key
    reason TEXT,                                -- ruled, settled: the person's reason; refused: why mdap rejected the answer
    about  INTEGER REFERENCES rulings(id),      -- settled, refused: the row with the answer; NULL: none was needed
    goes_on TEXT                                -- settled: the run_id of the run that continues
)
;
CREATE INDEX rulings_by_step ON rulings(run, step)
;
CREATE TRIGGER rulings_no_update BEFORE UPDATE ON rulings
BEGIN SELECT RAISE(ABORT, 'rulings is append-only'); END
;
CREATE TRIGGER rulings_no_delete BEFORE DELETE ON rulings
BEGIN SELECT RAISE(ABORT, 'rulings is append-only'); END
;
