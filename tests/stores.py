"""An object store in memory that fails when it is told to, as fsspec's `failing://`."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Counts calls; the one with number `fail_at` and all after it fail, until it is set to 0."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls: ClassVar[int] = 0
    fail_at: ClassVar[int] = 0
    error: ClassVar[Exception] = OSError(5, "Input/output error")
    lock: ClassVar[Any] = threading.Lock()

    @classmethod
    def reset(cls, fail_at: int = 0, error: Exception | None = None) -> None:
        """Count from the beginning."""
        cls.calls, cls.fail_at = 0, fail_at
        cls.error = error or OSError(5, "Input/output error")

    @classmethod
    def _call(cls) -> None:
        cls.calls += 1
        if cls.fail_at and cls.calls >= cls.fail_at:
            raise cls.error

    def makedirs(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn."""
        self._call()
        return super().makedirs(*arguments, **options)

    def put_file(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn, and then in the middle."""
        self._call()
        done = super().put_file(*arguments, **options)
        self._call()
        return done

    def get_file(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn, and then in the middle."""
        self._call()
        done = super().get_file(*arguments, **options)
        self._call()
        return done

    def isdir(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn."""
        self._call()
        return super().isdir(*arguments, **options)

    def ls(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn."""
        self._call()
        return super().ls(*arguments, **options)

    def rm(self, *arguments: Any, **options: Any) -> Any:
        """Fails in its turn."""
        self._call()
        return super().rm(*arguments, **options)


fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
