"""The command line: click commands, rendering, waiting. The only place that prints.

`main` and the definitions of commands import click alone; everything heavy is imported when a command runs.
"""
