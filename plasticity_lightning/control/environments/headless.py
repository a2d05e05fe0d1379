"""Rendering without a screen: which OpenGL back end, chosen before dm_control is imported, and one known crash avoided.

MuJoCo reads `MUJOCO_GL` once, when it is imported. Where the variable is not set, EGL is taken if the machine has it, then
OSMesa. The crash: Mesa's software renderer and triton each bring an LLVM; if triton is loaded after Mesa's first render
(creating any torch optimiser does that), the process dies of a segmentation fault. So triton is loaded first.
"""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from plasticity_lightning.errors import UserError

__all__ = ["TORCH_FREE", "import_suite"]

TORCH_FREE = "PLASTICITY_ENVIRONMENT_PROCESS"
"""Environment variable of processes that will never load torch, nor triton."""

_LIBRARIES = {"egl": ("EGL", "libegl1 and libgl1-mesa-dri"), "osmesa": ("OSMesa", "libosmesa6")}


def import_suite(find_library: Callable[[str], str | None] = ctypes.util.find_library) -> Any:
    """The module `dm_control.suite`, with a back end that renders without a screen.

    Args:
        find_library: as in `ctypes.util`, for tests.

    Raises:
        UserError: if dm_control is missing, or no back end works; the message names what to install.
    """
    if TORCH_FREE not in os.environ:
        with suppress(ImportError):
            importlib.import_module("triton")
    if "dm_control._render" not in sys.modules:
        _choose_back_end(find_library)
    return _import("dm_control.suite")


def _choose_back_end(find_library: Callable[[str], str | None]) -> None:
    if "MUJOCO_GL" in os.environ:
        try:
            _import("dm_control._render")
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"MUJOCO_GL={os.environ['MUJOCO_GL']} does not work here ({error}): unset it to have one chosen, or "
                f"install {_packages()}"
            ) from error
        return
    reasons = []
    for name, (library, _) in _LIBRARIES.items():
        if find_library(library) is None:
            reasons.append(f"{name}: no library lib{library}")
            continue
        os.environ["MUJOCO_GL"] = name
        try:
            _import("dm_control._render")
        except (ImportError, AttributeError, RuntimeError) as error:
            reasons.append(f"{name}: {error}")
            # both were bound to this back end
            for module in [m for m in sys.modules if m.split(".")[0] == "OpenGL" or m.startswith("dm_control._render")]:
                del sys.modules[module]
            os.environ.pop("PYOPENGL_PLATFORM", None)
            del os.environ["MUJOCO_GL"]
        else:
            return
    raise UserError(f"no OpenGL back end renders without a screen ({'; '.join(reasons)}): install {_packages()}")


def _packages() -> str:
    return ", or ".join(f"for {name} the Debian packages {packages}" for name, (_, packages) in _LIBRARIES.items())


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "dm_control":
            raise
        raise UserError(
            "dm_control is not installed. It has no wheels for Python 3.13, since its part labmaze has none: take "
            "Python 3.11 or 3.12. The task 'reach', Atari and Gymnasium environments work without it"
        ) from error
