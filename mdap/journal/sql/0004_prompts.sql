-- The prompts of a step, one row per view, if the run records prompts.
CREATE TABLE prompts (
    run        INTEGER NOT NULL REFERENCES runs(id),
    step       INTEGER NOT NULL,
    opening    INTEGER NOT NULL,
    view       INTEGER NOT NULL,                -- the view of the step, from 0
    system     INTEGER REFERENCES texts(id),    -- the system message; NULL: none
    user       INTEGER NOT NULL REFERENCES texts(id),
    schema     INTEGER REFERENCES texts(id),    -- JSON schema of the answer; NULL: none
    max_tokens INTEGER NOT NULL,                -- maximum output tokens of a reply
    PRIMARY KEY (run, step, opening, view),
    FOREIGN KEY (run, step, opening) REFERENCES steps(run, step, opening)
) WITHOUT ROWID
;

-- Every recorded prompt with its texts and the run's name: the table to browse.
CREATE VIEW step_prompts AS
SELECT r.run_id, p.step, p.opening, p.view, s.body AS system, u.body AS user, j.body AS schema, p.max_tokens
FROM prompts p JOIN runs r ON r.id = p.run JOIN texts u ON u.id = p.user
LEFT JOIN texts s ON s.id = p.system LEFT JOIN texts j ON j.id = p.schema
;

CREATE TRIGGER prompts_no_update BEFORE UPDATE ON prompts
BEGIN SELECT RAISE(ABORT, 'prompts is append-only'); END
;
CREATE TRIGGER prompts_no_delete BEFORE DELETE ON prompts
BEGIN SELECT RAISE(ABORT, 'prompts is append-only'); END
;
