"""The driver, which Triton requires of a backend. It is not active, as that of Triton's own backend for CPUs."""

from typing import Any, NoReturn

from triton.backends.driver import DriverBase


def _launch(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("kernels are interpreted here; set TRITON_INTERPRET=1")


_METHODS = dict.fromkeys(DriverBase.__abstractmethods__, _launch) | {"is_active": staticmethod(lambda: False)}
InterpretedDriver = type("InterpretedDriver", (DriverBase,), _METHODS)
