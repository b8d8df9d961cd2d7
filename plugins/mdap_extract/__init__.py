"""Structured extraction and classification over a file, every field decided by voting."""

from mdap_extract.task import Extract

__all__ = ["Extract"]
