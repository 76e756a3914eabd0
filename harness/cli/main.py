"""Where the command begins and ends: whatever ends it becomes an exit code, and a sentence where a person can mend it.

Exit code 0 means that the work was done; 2, that it was not, and why stands on stderr; 130, that it was interrupted,
and 143, that it was terminated.
Of other people's, only the standard library is imported before :func:`main` runs: an interrupt during the imports is
one, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from harness.errors import HarnessError, mendable
from harness.files import harmless
from harness.running import environment
from harness.running.stopping import stopped, terminations


def main() -> None:
    """Entry point of the command line."""
    try:
        with terminations(), _streams(), mendable():
            environment.prepare()
            _check_arguments()
            from harness.files.terminal import install

            install()
            try:
                if code := _run():
                    raise SystemExit(code)
            except HarnessError as error:
                _tell_programs(error)
                raise
            finally:
                sys.stdout.flush()  # what cannot be written is found here, not when Python ends
    except HarnessError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {harmless.line(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        raise SystemExit(stopped(error)) from None


def _run() -> int:
    """Run the command; returns its exit code.

    Raises:
        HarnessError: it refuses, or the command line is not of its form.
    """
    from harness.cli.app import app
    from harness.cli.refusals import is_typers, misused

    try:
        code = app(standalone_mode=False)
    except Exception as error:
        if not is_typers(error):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # it has printed the help
            return 2
        raise misused(error, sys.argv[1:]) from None
    return code if isinstance(code, int) else 0


def _tell_programs(error: HarnessError) -> None:
    """With ``--json``: the error on standard output, where a program reads."""
    from harness.cli.refusals import json_wanted, told
    from harness.files.terminal import say_json

    if json_wanted(sys.argv[1:]):
        with contextlib.suppress(HarnessError):  # it may be about standard output
            say_json({"error": told(error)})


def _check_arguments() -> None:
    """Refuse what cannot be written into a record."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise HarnessError(f"the argument {argument!a} is not UTF-8 text.") from None


# -- standard output and error -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Within the block, a reader of our output that leaves (head, less) does not end the work."""
    before = sys.stdout, sys.stderr
    sys.stdout = _Stream(sys.stdout, "standard output")
    sys.stderr = _Stream(sys.stderr, None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Stream:
    """A text stream; once its reader has left, what is written is dropped.

    Anything else that goes wrong is an error that names the stream, or is passed over where it has no name.
    """

    def __init__(self, stream: TextIO | None, name: str | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115  # whoever started us has closed it
        self._name = name
        self._failed = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._name is not None and not isinstance(error, BrokenPipeError):
                self._failed = f"cannot write to {self._name}: {error.strerror or error}."
            with contextlib.suppress(OSError, ValueError):  # no file behind it
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())  # what is still buffered has somewhere to go
                os.close(nowhere)
        if self._failed:  # said again each time: a library may have passed over it
            raise HarnessError(self._failed)
