"""Container images as disks of VMs: fetched, their layers merged, written as one file system."""
