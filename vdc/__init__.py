"""Virtual Distributed Computer: VMs that outlive the death of their host."""

__version__ = "0.1.0"
