"""A plugin that is one file and no package: named by whoever runs it, for this process alone.

In place of a distribution stands the file's name, in place of its version the sha256 of its bytes: a run with a changed
file is another run, and whoever has the file can tell (``sha256sum``) whether it is the one that a record names.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from harness.errors import HarnessError, not_there
from harness.files.paths import expand
from harness.plugin import border
from harness.plugin.catalogue import Catalogue
from harness.plugin.entries import Origin


@dataclass(frozen=True)
class PluginFile:
    """What a file says, read once: what is run is what is digested, and what a cluster's nodes are sent.

    Attributes:
        path: as it was named.
    """

    path: str
    source: str

    @property
    def origin(self) -> Origin:
        digest = hashlib.sha256(self.source.encode()).hexdigest()
        return Origin(Path(self.path).stem, Path(self.path).name, f"sha256:{digest}")

    def module(self) -> ModuleType:
        """The file's module, under a name that no import of another finds.

        Raises:
            HarnessError: the file raises something when it is run; says what, and in which of its lines.
        """
        module = ModuleType(f"plugin_file_{Path(self.path).stem}")
        module.__file__ = self.path
        sys.modules[module.__name__] = module  # where pydantic looks for the names in annotations
        try:
            exec(compile(self.source.encode(), self.path, "exec"), vars(module))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever it raises, SystemExit, too, must not end the program
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.path]
            where = f" (line {lines[-1]})" if lines else ""  # of a syntax error the sentence has it
            raise HarnessError(f"it cannot be imported: {border.said(error)}{where}") from error
        return module


def read(path: Path) -> PluginFile:
    """A plugin's file.

    Raises:
        HarnessError: there is none, or it is no UTF-8 text.
    """
    path = expand(path)
    if not path.is_file():
        raise HarnessError(f"--plugin {path}: {not_there(path)}.")
    try:
        return PluginFile(str(path), path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise HarnessError(f"--plugin {path}: this is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def add(file: PluginFile, found: Catalogue) -> None:
    """Take in what a file offers, in place of what the same file offered before it was changed.

    Raises:
        HarnessError: it cannot be imported, offers nothing, or a name is taken; begins with the file.
    """
    earlier = found.files.get(file.path)
    if earlier == file:
        return
    if earlier is not None:
        found.remove(earlier.origin)
        del found.files[file.path]
    try:
        found.add(file.module(), file.origin)
    except HarnessError as error:
        raise HarnessError(f"--plugin {file.path}: {str(error).rstrip('.')}.") from error
    found.files[file.path] = file
