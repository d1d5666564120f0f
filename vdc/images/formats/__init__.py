"""The formats of disk files: recognised and checked by their own bytes, before any tool opens them. Pure."""
