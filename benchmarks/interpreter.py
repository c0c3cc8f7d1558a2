"""How a Python was built, as far as it can be seen: `python interpreter.py` prints it as JSON.

Owns: what is seen, and the words for it.
Run by: `environments`, by the Python that is asked; imported by `instructions_driver`, and for its words by `run`.
May not: import anything but the standard library; it runs in any Python from 3.11, with no package and no other module.
Rule: what is there counts before what is configured. Debian builds its interpreter twice, with a shared library and
without, and installs the configuration of the shared one for both; it also takes LTO out of it
(https://bugs.debian.org/934771). What can't be seen, nor is said by a configuration that fits, is not known.
"""

import json
import platform
import struct
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

LAID_OUT = 0.25
"""How much of the code lies before the ordinary part, at least, where a profile has laid it out.

Debian's interpreter has 0.71, builds of the same compiler without a profile have 0.02."""


@dataclass(frozen=True)
class Interpreter:
    """A Python, and how it was built. None: not known."""

    version: str
    """Such as 3.11.2."""
    said: str
    """`sys.version`: it has the moment of the build."""
    executable: str
    """The file, behind all links and environments."""
    compiler: str
    level: str
    """Of optimization, such as -O3; empty where it is not known."""
    shared: bool | None
    """Its code is in libpython, behind a table of addresses."""
    pgo: bool | None
    """The compiler had a profile of what is used (profile-guided optimization)."""
    lto: bool | None
    """The linker has optimized all of it as one (link-time optimization)."""
    headers: bool
    """C can be compiled for it."""
    venv: bool
    """It makes virtual environments with pip in them."""

    def marks(self) -> list[str]:
        """The words that tell this build from others of the same version and compiler; none for what is not known."""
        words = {"static": self.shared is False, "PGO": self.pgo, "LTO": self.lto}
        return [*filter(None, [self.level]), *(word for word, holds in words.items() if holds)]

    def sentence(self) -> str:
        """The same for a report, with what is not known."""
        words = [self.compiler, *filter(None, [self.level])]
        for name, holds in (("PGO", self.pgo), ("LTO", self.lto)):
            words.append(f"{name} not known" if holds is None else name if holds else f"no {name}")
        if self.shared is not None:
            words.append("in libpython" if self.shared else "not in a shared library")
        return ", ".join(words)


def this() -> Interpreter:
    """The Python that runs this."""
    configured = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    flags = str(sysconfig.get_config_var("PY_CFLAGS") or "").split()
    executable = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    library = _library()
    shared = None if library is None else library != ""
    fits = shared is None or shared == bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    gcc = platform.python_compiler().startswith("GCC")
    return Interpreter(
        version=platform.python_version(),
        said=sys.version,
        executable=str(executable),
        compiler=platform.python_compiler().strip(),
        level=next((flag for flag in ("-O2", "-O3") if fits and flag in flags), ""),
        shared=shared,
        pgo=judged(
            "--enable-optimizations" in configured,
            fits,
            laid_out(Path(library or executable)) if gcc else None,
        ),
        lto=judged("--with-lto" in configured, fits, None),
        headers=Path(sysconfig.get_path("include"), "Python.h").exists(),
        venv=find_spec("ensurepip") is not None,
    )


def judged(configured: bool, fits: bool, seen: bool | None) -> bool | None:
    """Whether something is so that is `seen`, or `configured` where that configuration `fits` what is there."""
    if seen is not None:
        return seen or configured
    # What was asked for holds for each of several builds; what was not asked for of this one may be for another.
    return True if configured else False if fits else None


def _library() -> str | None:
    """The file of the library that the code is in; empty for none; None where that can't be seen."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    mapped = (line.split(maxsplit=5)[5] for line in lines if "/" in line)
    return next((name for name in mapped if Path(name).name.startswith("libpython")), "")


def laid_out(program: Path) -> bool | None:
    """Whether a profile decided where the code of an ELF file lies, which GNU's linker has put together.

    The linker lays what a profile has never seen run first, then what starts it up, then what runs most, and behind
    these the rest (`ld --verbose`, .text), which begins with the C runtime's own. Without a profile only
    what ends in an abort comes before it. The C runtime's own is where the first initializer is.
    """
    try:
        data = program.read_bytes()
        sections = _sections(data)
        start, size, _ = sections[".text"]
        runtime = _first_initializer(data, sections)
    except (OSError, LookupError, ValueError, struct.error):
        return None
    return (runtime - start) / size > LAID_OUT if start <= runtime < start + size else None


_Sections = dict[str, tuple[int, int, int]]
"""Address, size and place in the file, by name."""


def _sections(data: bytes) -> _Sections:
    """Of an ELF file of 64 bits, little-endian (elf(5)); ValueError for any other."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF file of 64 bits, little-endian")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, of_names = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQ", data, table + 64 * number) for number in range(count)]
    names = headers[of_names][4]
    return {
        data[names + header[0] : data.index(b"\0", names + header[0])].decode(): (
            header[3],
            header[5],
            header[4],
        )
        for header in headers
    }


def _first_initializer(data: bytes, sections: _Sections) -> int:
    """Its address: as it is in the file, or where it is written when the file is loaded, as the relocation says."""
    address, _, place = sections[".init_array"]
    (found,) = struct.unpack_from("<Q", data, place)
    if not found:
        _, size, first = sections[".rela.dyn"]
        for offset in range(first, first + size, 24):
            where, _, what = struct.unpack_from("<QQq", data, offset)
            if where == address:
                return int(what)
    return int(found)


def main() -> None:
    """Print it."""
    print(json.dumps(asdict(this())))


if __name__ == "__main__":
    main()
