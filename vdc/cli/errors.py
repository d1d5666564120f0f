"""Every error as one line on stderr and a hint; its exit code."""

from __future__ import annotations

import os
import sys
import traceback

import click

from vdc.cli.text import clean, paint
from vdc.model.errors import Problem, VdcError
from vdc.model.manifest_file import ManifestError

EXIT_FAILED = 1
EXIT_USAGE = 2
ENV_DEBUG = "VDC_DEBUG"
_NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())  # its message is the help


class ReportedError(Exception):
    """The command has printed what is wrong; only the exit code is left to give."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class UsageFault(click.UsageError):
    """A command line that is wrong, with a code and a hint of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def report(error: Exception) -> int:
    """Print an error; returns the exit code."""
    if isinstance(error, ReportedError):
        return error.exit_code
    if isinstance(error, _NO_ARGUMENTS):
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    if os.environ.get(ENV_DEBUG):
        traceback.print_exception(error)
    print_problem(problem_of(error))
    return exit_code_of(error)


def exit_code_of(error: Exception) -> int:
    """2 where nothing was sent because what the user wrote is wrong, else 1."""
    return EXIT_USAGE if isinstance(error, click.UsageError | ManifestError) else EXIT_FAILED


def problem_of(error: Exception) -> Problem:
    """Code, message and hint of any exception."""
    if isinstance(error, VdcError):
        return error.problem
    if isinstance(error, UsageFault):
        return error.problem
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "vdc"
        return Problem(code="usage", message=_lower(error.format_message()), hint=f"{command} --help")
    if isinstance(error, click.ClickException):
        return Problem(code="input", message=_lower(error.format_message()))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Problem(code="os", message=f"{where}{error.strerror or error}")
    message = f"{type(error).__name__}: {error}"
    return Problem(code="internal", message=message, hint=f"a defect of vdc; {ENV_DEBUG}=1 shows where")


def print_problem(problem: Problem) -> None:
    """The one line, and the hint on a second one."""
    text = clean(problem.message).rstrip(".")
    print(f"{paint('error:', 'red', sys.stderr)} {text} ({problem.code})", file=sys.stderr)
    if problem.hint:
        print(f"{paint('hint:', 'cyan', sys.stderr)} {clean(problem.hint)}", file=sys.stderr)


def _lower(message: str) -> str:
    message = message.rstrip(".")
    return message[:1].lower() + message[1:] if message[1:2].islower() else message
