-- The task's verdict on the result: 'solved' or 'unsolved'; NULL if it gives none, and
-- until the run ends. It repeats the verdict in the event finished, which the seal covers.
ALTER TABLE runs ADD COLUMN outcome TEXT CHECK (outcome = 'solved' OR outcome = 'unsolved')
;
DROP TRIGGER runs_no_update
;
-- mdap writes the outcome once; a batch can end again, with more cases.
CREATE TRIGGER runs_no_update BEFORE UPDATE ON runs
WHEN NEW.outcome IS OLD.outcome OR NOT (OLD.outcome IS NULL OR OLD.kind = 'batch')
    OR (NEW.id, NEW.run_id, NEW.kind, NEW.parent, NEW.task, NEW.task_version, NEW.params, NEW.settings, NEW.provider, NEW.k, NEW.mdap_version, NEW.created_at)
    IS NOT (OLD.id, OLD.run_id, OLD.kind, OLD.parent, OLD.task, OLD.task_version, OLD.params, OLD.settings, OLD.provider, OLD.k, OLD.mdap_version, OLD.created_at)
BEGIN SELECT RAISE(ABORT, 'runs is append-only'); END
;
