-- when the sample's request left, in milliseconds of Unix time; NULL: not recorded
ALTER TABLE samples ADD COLUMN began INTEGER
;
ALTER TABLE pending ADD COLUMN began INTEGER
;
-- The failed attempts of a step, for its timeline.
CREATE INDEX attempts_by_step ON run_events(run, step) WHERE kind = 'attempt_failed'
;

DROP VIEW sample_texts
;
-- Every sample with its texts and the run's name: the table to browse.
CREATE VIEW sample_texts AS
SELECT r.run_id, s.step, s.opening, s.ordinal, s.verdict, s.counted, s.answer_key, s.flag_reason,
       s.model, s.view, s.temperature, s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts,
       s.request_id, s.finish_reason, t.body AS text, s.served_model, s.fingerprint, s.reasoning_tokens,
       h.body AS reasoning, s.began
FROM samples s JOIN runs r ON r.id = s.run LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning
;
