"""Pure rules: no loop, no clock, no disk, no random source, no log; callers pass those in."""
