"""The documentation, executed: every page in a folder of its own, block by block, as a reader would."""
