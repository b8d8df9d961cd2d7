"""The values that pass between mdap's parts: requests, replies and recorded facts.

Each module names in `__all__` what this package exports.
"""

from mdap.records.calibrations import *
from mdap.records.events import *
from mdap.records.facts import *
from mdap.records.requests import *
from mdap.records.results import *
from mdap.records.resuming import *
from mdap.records.states import *
