-- the part of input_tokens that was written to the provider's cache; NULL: not reported
ALTER TABLE samples ADD COLUMN cache_write_tokens INTEGER
;
ALTER TABLE pending ADD COLUMN cache_write_tokens INTEGER
;

DROP VIEW sample_texts
;
-- Every sample with its texts and the run's name: the table to browse.
CREATE VIEW sample_texts AS
SELECT r.run_id, s.step, s.opening, s.ordinal, s.verdict, s.counted, s.answer_key, s.flag_reason,
       s.model, s.view, s.temperature, s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts,
       s.request_id, s.finish_reason, t.body AS text, s.served_model, s.fingerprint, s.reasoning_tokens,
       h.body AS reasoning, s.began, s.cache_write_tokens
FROM samples s JOIN runs r ON r.id = s.run LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning
;
