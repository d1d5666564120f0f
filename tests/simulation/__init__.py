"""A deterministic simulation of a pair on three hosts: every fault at every step, and what must hold after each.

`world` is the state (tuples, hashable), `network` and `store` what connects hosts, `qemu` the two processes, `agent`
and `jobs` what the supervisor does with the real `decide`, `control` the leader, `faults` what goes wrong, `steps`
everything that may happen next, `explore` the search, `liveness` what becomes of a world that is left in peace.
docs/development.md says how to run it deeper and how to read a counter-example.
"""
