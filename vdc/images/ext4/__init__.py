"""An ext4 file system from a tree of files, without mounting or unpacking anything.

mke2fs makes the empty file system; what it can fill it from a tar archive by itself loses attributes
(all but security.capability) and takes minutes for a folder of 100,000 files. So the files are put in here, by the
format's documentation (Linux: Documentation/filesystems/ext4), and e2fsck looks at the result.
"""
