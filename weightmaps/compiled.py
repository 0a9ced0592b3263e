"""Compiling with numba, with a disk cache that is private and can never stop a run.

numba's own ``cache=True`` raises at import where no folder is writable, raises at every run once a
cache file is damaged, may mix up the files of two processes that compile at once, and unpickles
what it finds, be the folder shared or not. Here:

- one folder per user, mode 0700, its owner checked, never the working directory;
- one file per function and signature, named by a hash of everything it depends on, published by
  rename, its SHA-256 checked before numba may read it;
- whatever goes wrong, the function is compiled in memory; a folder that cannot be used is
  reported by one warning per process;
- without numba the plain Python function is returned: slow, with the same result.

A compiled function may call only compiled functions of its own module: the cache key covers the
source text of that module and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import logging
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "available",
    "cache_directory",
    "compiled",
    "compiled_distinct",
]

Function = TypeVar("Function", bound=Callable[..., Any])

ENVIRONMENT = "UNET2015_CACHE_DIR"
_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 26  # of a file of the cache
_warned = False


def available() -> bool:
    """Return whether numba can be imported."""
    return importlib.util.find_spec("numba") is not None


def compiled(function: Function) -> Function:
    """Return `function` compiled by numba (nopython, no interpreter lock), cached on disk.

    Exact arithmetic: no fast-math, so a result never depends on the machine's vector width.

    Examples
    --------
    >>> @compiled
    ... def twice(x):
    ...     return 2 * x
    >>> twice(21)
    42
    """
    return _compile(function)


def compiled_distinct(function: Function) -> Function:
    """Return `function` compiled like `compiled`, for array arguments that never overlap.

    The promise lets the compiler turn loops over many arrays into vector code.
    """
    with contextlib.suppress(ImportError, AttributeError):
        return _compile(function, pipeline_class=_distinct_pipeline())
    return _compile(function)


def _compile(function: Function, **options: Any) -> Function:
    if not available():
        return function
    import numba

    dispatcher: Any = numba.njit(nogil=True, **options)(function)
    with contextlib.suppress(Exception):  # another numba: compile in memory
        dispatcher._cache = _make_cache(function)
    return dispatcher  # type: ignore[no-any-return]


@functools.cache
def _distinct_pipeline() -> Any:
    """Return numba's compiler with its `noalias` flag set (it is no option of njit)."""
    compiler: Any = importlib.import_module("numba.core.compiler")

    class Distinct(compiler.Compiler):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.state.flags.noalias = True

    return Distinct


def cache_directory() -> Path:
    """Return the folder of the compiled code, whether it exists or not.

    ``$UNET2015_CACHE_DIR``, or ``unet2015`` in the user's cache folder.
    """
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT]) / "compiled"
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    else:
        base = _home() / ".cache"
    return base / "unet2015" / "compiled"


def _home() -> Path:
    home = Path.home()
    if home == Path(home.anchor):
        raise RuntimeError("there is no home folder")
    return home


def _private_directory() -> Path:
    """Return the cache folder, made if need be; raises OSError unless it is ours alone."""
    directory = cache_directory()
    if not directory.is_absolute():
        raise OSError("its path is not absolute")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError("it is not a folder")
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise OSError(f"it belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            raise OSError(f"others may enter it (mode {stat.S_IMODE(found.st_mode):o}, not 700)")
    return directory


def _warn_once(reason: BaseException) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    try:
        place = str(cache_directory())
    except RuntimeError:  # no home folder
        place = "a cache folder"
    text = (
        f"compiled code cannot be kept in {place} ({reason}); it is compiled in memory, some "
        f"seconds at each start. Set {ENVIRONMENT} to a private folder"
    )
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # warnings are errors: still not a reason to stop
        logging.getLogger("weightmaps").warning(text)


def _stamp(function: Callable[..., Any]) -> str:
    """Hash of what the machine code of every function of a module depends on."""
    versions = [str(importlib.import_module(m).__version__) for m in ("numba", "llvmlite")]
    digest = hashlib.sha256(Path(inspect.getfile(function)).read_bytes())
    digest.update("\0".join([*versions, sys.version]).encode())
    return digest.hexdigest()[:16]


def _make_cache(function: Callable[..., Any]) -> Any:
    """Return a numba cache object for one function (numba is imported here, not before)."""
    caching: Any = importlib.import_module("numba.core.caching")

    class Files(caching.IndexDataCacheFile):  # type: ignore[misc]
        """One checked file per signature; numba reads and writes its content."""

        def __init__(self, base: str, stamp: str) -> None:
            self.base, self.stamp, self._cache_path = base, stamp, ""

        def name(self, key: object) -> str:
            return f"{self.base}.{self.stamp}.{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"

        def save(self, key: object, data: object) -> None:
            directory = _private_directory()
            self._cache_path = str(directory)
            self._save_data(self.name(key), data)
            for old in directory.glob(f"{self.base}.*"):
                if old.name.split(".")[1] != self.stamp:
                    old.unlink(missing_ok=True)

        def load(self, key: object) -> object:
            directory = _private_directory()
            self._cache_path = str(directory)
            if not _intact(directory / self.name(key)):
                return None
            return self._load_data(self.name(key))

        @contextlib.contextmanager
        def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
            content = io.BytesIO()
            yield content
            _publish(Path(filepath), content.getvalue())

    class SafeCache(caching.NullCache):  # type: ignore[misc]
        """Keeps compiled functions; every failure means compiling in memory."""

        def __init__(self) -> None:
            path = hashlib.sha256(os.fsencode(inspect.getfile(function))).hexdigest()[:8]
            base = f"{function.__module__}-{function.__qualname__}-{path}"
            self._py_func = function
            self.files = Files(base.replace(".", "-").replace("<", "").replace(">", ""), "")

        def key(self, sig: object, codegen: Any) -> object:
            if not self.files.stamp:
                self.files.stamp = _stamp(function)
            return caching.Cache._index_key(self, sig, codegen)

        def load_overload(self, sig: object, target_context: Any) -> object:
            try:
                target_context.refresh()
                data = self.files.load(self.key(sig, target_context.codegen()))
                if data is None:
                    return None
                return caching.CompileResultCacheImpl.rebuild(None, target_context, data)
            except Exception as reason:  # noqa: BLE001 - a cache may fail in any way, a run not
                _warn_once(reason)
                return None

        def save_overload(self, sig: object, data: Any) -> None:
            try:
                if data.lifted or data.library.has_dynamic_globals:
                    return
                reduced = caching.CompileResultCacheImpl.reduce(None, data)
                self.files.save(self.key(sig, data.codegen), reduced)
            except Exception as reason:  # noqa: BLE001 - as above
                _warn_once(reason)

    return SafeCache()


def _intact(path: Path) -> bool:
    """Return whether a cache file exists and ends with the SHA-256 of the rest."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return False
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return hashlib.sha256(body).digest() == digest


def _publish(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content + hashlib.sha256(content).digest())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
