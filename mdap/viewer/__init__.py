"""The log in a browser, and a run as one file: read-only, unless a desk settles steps.

Importing this package imports no web framework, so that a session can describe a database without one.
"""
