"""The append-only record of runs in SQLite: one writer, many readers."""
