"""Records, ids and errors that every part of the product shares. Frozen, typed, no I/O."""
