-- Totals include the tokens billed in events: for the probe of an endpoint, and for unreadable replies.
CREATE INDEX run_events_billed ON run_events(run)
WHERE CASE WHEN json_valid(data) THEN coalesce(data->>'input_tokens', data->>'output_tokens') END IS NOT NULL
;

DROP VIEW run_totals
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
       coalesce(sum(s.input_tokens), 0) + coalesce(b.input_tokens, 0) AS input_tokens,
       coalesce(sum(s.output_tokens), 0) + coalesce(b.output_tokens, 0) AS output_tokens,
       coalesce(b.probe_samples, 0) AS probe_samples,
       coalesce(b.probe_failed_attempts, 0) AS probe_failed_attempts,
       coalesce(b.probe_input_tokens, 0) AS probe_input_tokens,
       coalesce(b.probe_output_tokens, 0) AS probe_output_tokens
FROM runs r LEFT JOIN samples s ON s.run = r.id LEFT JOIN (
    SELECT run,
           coalesce(sum(data->>'input_tokens'), 0) AS input_tokens,
           coalesce(sum(data->>'output_tokens'), 0) AS output_tokens,
           coalesce(sum(data->>'samples') FILTER (WHERE kind = 'probe'), 0) AS probe_samples,
           coalesce(sum(data->>'failed_attempts') FILTER (WHERE kind = 'probe'), 0) AS probe_failed_attempts,
           coalesce(sum(data->>'input_tokens') FILTER (WHERE kind = 'probe'), 0) AS probe_input_tokens,
           coalesce(sum(data->>'output_tokens') FILTER (WHERE kind = 'probe'), 0) AS probe_output_tokens
    FROM run_events WHERE CASE WHEN json_valid(data) THEN coalesce(data->>'input_tokens', data->>'output_tokens') END IS NOT NULL GROUP BY run
) b ON b.run = r.id
GROUP BY r.id
;
