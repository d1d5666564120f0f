"""QEMU: command lines, the QMP session, the sandbox, and the choreography of lockstep, one module a role.

Pure: `spec`, `argv`, `sandbox`, `plan`, `checkpoints`, `commands`. Effects: `qmp`, `primary`, `secondary`,
`inspect`, `capabilities`. Nothing here decides who may speak: whoever calls `primary.leave` or
`secondary.promote` has won the arbitration before (docs/failover.md).
"""
