"""Decisions, pure: no I/O, no clock. What is known goes in as a value, what to do comes out as a value."""
