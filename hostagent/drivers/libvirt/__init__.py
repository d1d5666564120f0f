"""What libvirt knows of this host: its CPU, what QEMU can offer here, and the baseline of several hosts.

The agent never loads libvirt. Measured on libvirt 9.0: an open `qemu:///embed` connection costs the
process 27 MB of RSS (of the agent's budget of 90) and two threads that stay, and leaves folders in
/run/libvirt; a crash in it would be the agent's. A child process answers in 0.7 s, of which 0.6 are
QEMU's own start, costs nothing afterwards, and its answer holds for a whole boot. So:

    agent -> client.py -> bwrap (sandbox.py) -> python -m hostagent.drivers.libvirt.worker -> libvirt

The child's namespaces (mounts, pids, network) end with it, and with them whatever libvirt made.
"""
