"""Kubernetes' objects as people write them: read strictly, and workloads that ask for it turned into Endophytes.

Pure: a file's objects in (vdc.model.manifest_file), manifests or reasons out. Nothing of an object is dropped
silently: each field is kept, refused by its path, or noted as having no meaning for a virtual computer.
"""
