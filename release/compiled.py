"""The compiled wheel: the same source, with the data path as machine code.

hatchling's build hook (https://hatch.pypa.io/latest/plugins/build-hook/custom/). With IDTOKEN_SIDECAR_COMPILED=1 it has
mypyc make C of the modules that pyproject.toml lists, and setuptools have it compiled; without, it does nothing, and
the wheel is for every system. Nothing is written into the source tree. The sources are in the wheel, too: Python takes
the machine code where there are both, and a traceback shows the lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "IDTOKEN_SIDECAR_COMPILED"

_COMPILE = """
import json, sys
from mypyc.build import mypycify
from setuptools import Distribution

modules, made, placed = json.loads(sys.argv[1])
extensions = mypycify(
    ["--config-file=pyproject.toml", *modules],
    opt_level="3",
    multi_file=True,
    target_dir=made,
    group_name="idtoken_sidecar",
)
build = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
build.build_temp, build.build_lib, build.parallel = made, placed, True
build.ensure_finalized()
build.run()
"""


def modules(root: Path) -> list[str]:
    """The source files to compile, of the project in `root`; ValueError for a pattern that no file has."""
    patterns = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["idtoken-sidecar"][
        "compiled"
    ]
    found: list[str] = []
    for pattern in patterns["modules"]:
        files = sorted(path for path in root.glob(pattern) if path.name != "__init__.py")
        if not files:
            raise ValueError(f"{pattern} in [tool.idtoken-sidecar.compiled] is no file")
        found += [path.relative_to(root).as_posix() for path in files]
    return found


class CompiledBuild(BuildHookInterface[Any]):
    """See the module's docstring."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the wheel take the machine code in; called before it is packed."""
        if os.environ.get(SWITCH) != "1" or version == "editable":
            return
        root = Path(self.root)
        self._directory = tempfile.TemporaryDirectory(prefix="idtoken-sidecar-")
        made, placed = (Path(self._directory.name, name) for name in ("c", "lib"))
        order = json.dumps([modules(root), str(made), str(placed)])
        done = subprocess.run(  # noqa: S603  # this interpreter
            [sys.executable, "-c", _COMPILE, order], cwd=root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"The data path could not be compiled. It needs a C compiler, Python's headers, and the packages of "
                f"requirements-compile.lock.\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        for path in sorted(placed.rglob("*.so")):
            build_data["force_include"][str(path)] = path.relative_to(placed).as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Drop what was made for the wheel; called when it is packed."""
        if os.environ.get(SWITCH) == "1" and version != "editable":
            self._directory.cleanup()
