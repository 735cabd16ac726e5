"""Data sets as they lie on disk, turned into packs that a machine without their libraries can train from."""
