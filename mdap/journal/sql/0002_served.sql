-- the model that the endpoint reports; NULL: it reports none
ALTER TABLE samples ADD COLUMN served_model TEXT
;
-- the endpoint's system fingerprint
ALTER TABLE samples ADD COLUMN fingerprint TEXT
;
-- the part of output_tokens spent on reasoning
ALTER TABLE samples ADD COLUMN reasoning_tokens INTEGER
;
-- the model's reasoning text: recorded, never parsed
ALTER TABLE samples ADD COLUMN reasoning INTEGER REFERENCES texts(id)
;
ALTER TABLE pending ADD COLUMN served_model TEXT
;
ALTER TABLE pending ADD COLUMN fingerprint TEXT
;
ALTER TABLE pending ADD COLUMN reasoning_tokens INTEGER
;
ALTER TABLE pending ADD COLUMN reasoning INTEGER
;

-- temperature becomes NULL if mdap sent none. Allowing NULL changes nothing on disk: this is SQLite's documented way to do so; the alternative is to write the
-- whole table again.
PRAGMA writable_schema = ON
;
UPDATE sqlite_schema SET sql = replace(replace(sql,
    'temperature   REAL NOT NULL', 'temperature   REAL'), 'temperature REAL NOT NULL', 'temperature REAL')
WHERE type = 'table' AND name IN ('samples', 'pending')
;
PRAGMA writable_schema = RESET
;

DROP VIEW sample_texts
;
-- Every sample with its texts and the run's name: the table to browse.
CREATE VIEW sample_texts AS
SELECT r.run_id, s.step, s.opening, s.ordinal, s.verdict, s.counted, s.answer_key, s.flag_reason,
       s.model, s.view, s.temperature, s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts,
       s.request_id, s.finish_reason, t.body AS text, s.served_model, s.fingerprint, s.reasoning_tokens,
       h.body AS reasoning
FROM samples s JOIN runs r ON r.id = s.run LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning
;
