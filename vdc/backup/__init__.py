"""Backups of VMs in a repository: a folder or an S3 bucket, written by the command line. See docs/backups.md.

    vdc-backup.json              what makes it a repository
    backups/VM/ID.json           one backup: its VM's manifest and the chunks of its disks, with a checksum
    chunks/AB/ABCDEF...          4 MiB of a disk at most, by the sha256 of what is in it, packed
    locks/KIND-TOKEN             who works in it now

A chunk is there before the first backup that names it, and goes after the last one: whatever breaks off leaves chunks
that nobody needs, and no backup that lacks one.
"""
