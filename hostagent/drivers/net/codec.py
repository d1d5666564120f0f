"""pyroute2's message classes, without the rest of pyroute2.

`import pyroute2` runs a package file that loads every protocol it knows (163 modules, 10.6 MB resident,
70 ms of CPU); the four message classes that are used here need 27 modules and 1.2 MB. So the package is put
into `sys.modules` unexecuted; the first name that is no submodule executes it after all, and
`from pyroute2 import IPRoute` elsewhere in the process works as ever.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def _register_package() -> None:
    if "pyroute2" in sys.modules:
        return
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'pyroute2'", name="pyroute2")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def load(name: str) -> Any:
        if name.startswith("__") or importlib.util.find_spec(f"pyroute2.{name}") is not None:
            raise AttributeError(name)
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = load
    sys.modules["pyroute2"] = module


_register_package()

from pyroute2.netlink.rtnl.fibmsg import fibmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402

__all__ = ["fibmsg", "ifaddrmsg", "ifinfmsg", "ndmsg", "rtmsg"]
