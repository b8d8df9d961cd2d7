"""Pure rules: no loop, no clock, no disk, no random source, no log; whoever calls brings those."""
