"""A process that multiprocessing has started, before its first stage."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from carbon_otel.handover import RUN, present
from carbon_otel.instrumentation.import_hook import ImportHook
from carbon_otel.otel.propagation import VARIABLES
from carbon_otel.runtime import Options
from carbon_otel.session.patches import install
from carbon_otel.session.session import Session


class Waiting:
    """Only watches the libraries, and begins to measure at the first stage."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._hook = ImportHook()
        self._process = os.getpid()

    def begin(self) -> None:
        install(self._hook, self.options.settings)

    def in_child(self) -> Session:
        return Session(self.options, self._hook, forked=os.getpid() != self._process)

    def inject(self, environment: MutableMapping[str, str]) -> None:
        """Put the work for which this process was started into a child's environment."""
        work = present.get()
        variables = os.environ if work is None else work.variables
        environment.update({name: variables[name] for name in (*VARIABLES, RUN) if name in variables})

    def disconnect(self) -> None:
        self._hook.remove()
