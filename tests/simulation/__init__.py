"""A deterministic simulation of a pair on three hosts: every fault at every step, and what must hold after each.

`world` is the state (tuples, hashable), `network` and `store` what connects hosts, `qemu` the two processes. Of an
agent, `view` is what it knows and what the real `decide` says to it, `agent` what it begins, `adoption` how it takes
over; `jobs` lists the steps of each action, from `power`, `primary`, `secondary`, `switch` and `commits`. `control` is
the leader, `faults` what goes wrong, `steps` everything that may happen next, `settling` what follows from each by
itself, `explore` the search, `liveness` what becomes of a world that is left in peace.
docs/development.md says how to run it deeper and how to read a counter-example.
"""
