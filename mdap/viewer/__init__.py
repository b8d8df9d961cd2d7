"""The log in a browser, and a run as one file: read-only, unless a desk settles steps.

This package imports no web framework by itself, so that a session can describe a database to it without one.
"""
