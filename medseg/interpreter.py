"""Processes of their own for functions of medseg."""

from __future__ import annotations

import sys

BOOT = "import sys; sys.path[:] = {path!r}; from {module} import {name}; sys.exit({name}(*{arguments!r}))"


def command_of(function: str, *arguments: str) -> list[str]:
    """Return the command of a process that calls a function, and ends with what it returns.

    Its modules are found where this process finds them, and nowhere else: with ``-m``, or a bare ``-c``, the working
    folder, which may be one of scans, would come first, and a ``pickle.py`` among the scans would be run.

    Parameters
    ----------
    function : as "module:name".
    """
    module, _, name = function.partition(":")
    path = [place for place in sys.path if isinstance(place, str)]  # Python passes over others
    return [sys.executable, "-c", BOOT.format(path=path, module=module, name=name, arguments=arguments)]
