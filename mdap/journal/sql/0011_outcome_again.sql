-- A finished run that goes on after a person settled a step may end with another outcome.
DROP TRIGGER runs_no_update
;
-- The outcome is always that of the event finished before it.
CREATE TRIGGER runs_no_update BEFORE UPDATE ON runs
WHEN NEW.outcome IS OLD.outcome
    OR NEW.outcome IS NOT (SELECT CASE WHEN json_valid(data) THEN data->>'outcome' END FROM run_events
        WHERE run = OLD.id AND kind = 'finished' ORDER BY id DESC LIMIT 1)
    OR (NEW.id, NEW.run_id, NEW.kind, NEW.parent, NEW.task, NEW.task_version, NEW.params, NEW.settings, NEW.provider, NEW.k, NEW.mdap_version, NEW.created_at)
    IS NOT (OLD.id, OLD.run_id, OLD.kind, OLD.parent, OLD.task, OLD.task_version, OLD.params, OLD.settings, OLD.provider, OLD.k, OLD.mdap_version, OLD.created_at)
BEGIN SELECT RAISE(ABORT, 'runs is append-only'); END
;
