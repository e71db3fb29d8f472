"""Which runs a store does not accept, and when each is tried again.

An error may concern one run (it was deleted, a file of it is broken) or the whole store. A run that fails is tried
again after growing pauses and then rarely, so it delays no other run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from carbon_otel import clock
from carbon_otel.guard import log_once, logger
from carbon_otel.mlflow.delivery import store_uri
from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.units import MS_PER_S

INVALID: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
# The run was deleted, or it is not of this store.
_UNKNOWN: Final = INVALID | {"RESOURCE_DOES_NOT_EXIST"}
_REFUSED: Final = _UNKNOWN | {"PERMISSION_DENIED", "INVALID_STATE"}
_OVERLOADED: Final = frozenset({"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
_FIRST_PAUSE_S: Final = 1.0
# After this many tries the run is set aside: the fault is reported, and the run is tried once in five minutes.
_TRIES: Final = 5
_ASIDE_S: Final = 300.0
# A deleted run may be restored, and the address of a store may for a time lead to another one.
_KEPT_S: Final = 30 * 86400.0


def is_refusal(error: Exception) -> bool:
    """Whether the store has answered that it does not accept this run: a retry now would be refused too."""
    from mlflow.exceptions import MissingConfigException, MlflowException

    if isinstance(error, MissingConfigException):
        return True
    return isinstance(error, MlflowException) and error.error_code in _REFUSED


def is_ambiguous(error: Exception) -> bool:
    """Whether the fault may be of the run or of the whole store."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, (MlflowException, OSError)) and not is_refusal(error)


def is_unreachable(error: Exception) -> bool:
    """Whether the store has probably not processed the call, so that other runs would fail too."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        return error.error_code in _OVERLOADED
    return is_ambiguous(error)


def text_of(error: Exception) -> str:
    """The error for a message, without passwords."""
    return f"{type(error).__name__}: {store_uri.printable(str(error))}"


@dataclass(slots=True)
class _Fault:
    tries: int = 0
    again: float = 0.0


class Faults:
    """The runs that a store does not accept, by ordering key."""

    def __init__(self, clock: Callable[[], float] = clock.monotonic) -> None:
        self._clock = clock
        self._faults: dict[str, _Fault] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    def not_due(self) -> set[str]:
        """The runs that are not to be tried now."""
        now = self._clock()
        return {key for key, fault in self._faults.items() if fault.again > now}

    def next_due(self) -> float:
        """When the next of them is tried again, on the monotonic clock; infinite without any."""
        return min((fault.again for fault in self._faults.values()), default=math.inf)

    def retry(self) -> None:
        """Try all of them again now."""
        for fault in self._faults.values():
            fault.again = 0.0

    def accepted(self, key: str) -> None:
        """The store has taken the figures of this run, or they are gone."""
        self._faults.pop(key, None)

    def note(self, batch: Batch, error: Exception) -> bool:
        """The store did not accept this run. Returns False if its figures are too old to be kept."""
        fault = self._faults.setdefault(batch.ordering_key, _Fault())
        fault.tries += 1
        is_aside = fault.tries >= _TRIES
        fault.again = self._clock() + (_ASIDE_S if is_aside else _FIRST_PAUSE_S * 2 ** (fault.tries - 1))
        is_old = time.time() - batch.timestamp_ms / MS_PER_S > _KEPT_S
        if is_old and (is_aside or getattr(error, "error_code", None) in _UNKNOWN):
            del self._faults[batch.ordering_key]
            log_once(
                "MLflow has refused the figures of %s for 30 days; they are lost: %s",
                batch.label,
                text_of(error),
                about=batch.ordering_key,
            )
            return False
        logger.debug("%s is not accepted", batch.label, exc_info=error)
        # An error of the network at one run only is reported when it lasts: the store may just have gone down.
        if is_aside or not is_unreachable(error):
            log_once(
                "MLflow does not accept the figures of %s (%s); they wait for 30 days, other runs go on",
                batch.label,
                text_of(error),
                about=batch.ordering_key,
            )
        return True
