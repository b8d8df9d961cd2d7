"""The engine: one step (`voting`), a chain of them (`chain`), and who asks (`scheduler`)."""
