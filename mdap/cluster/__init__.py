"""Batches on several processes or machines: one head owns the log, the limits and the budget.

The *head* deals cases to *workers*, admits their requests at its gates and writes their facts. A worker runs
mdap's own engine. Its journal, gates and budget guard have the methods of the local ones, but ask the head.
Head and workers are plain objects that exchange lists of messages; a *channel* carries these.
"""
