"""Workers by their names: which files there are, and what is in one.

A worker is a file `workers/NAME.py` that has a `QueueWorker` named `worker`. The folder `workers`
of the current directory is looked in first, then the workers that come with orderflow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from orderflow.errors import InvalidWorker, UnknownWorker
from orderflow.processor import QueueWorker

_PACKAGE = Path(__file__).parent


def _shipped_folder() -> Path:
    """Return the folder of the workers that come with orderflow."""
    # In a checkout they are not inside of the package, but beside its source.
    inside = _PACKAGE / "workers"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "workers"


def _folders() -> list[Path]:
    """Return the folders that hold workers, the user's own first."""
    folders = (Path.cwd() / "workers", _shipped_folder())
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def worker_files() -> dict[str, Path]:
    """Return the file of every worker by its name."""
    files: dict[str, Path] = {}
    for folder in _folders():
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                files.setdefault(file.stem, file)
    return files


def load_worker(name: str) -> QueueWorker:
    """Import the file of a worker and return its `worker`.

    Raises UnknownWorker with the names that exist, or InvalidWorker.
    """
    files = worker_files()
    if name not in files:
        raise UnknownWorker(name=name, known=sorted(files))
    return _import_worker(name, files[name])


def shipped_worker(name: str) -> QueueWorker:
    """Return a worker that comes with orderflow, for a file of one's own to add handlers to.

    Raises UnknownWorker or InvalidWorker.
    """
    path = _shipped_folder() / f"{name}.py"
    if not path.is_file():
        known = sorted(file.stem for file in _shipped_folder().glob("*.py"))
        raise UnknownWorker(name=name, known=known)
    return _import_worker(name, path)


def _import_worker(name: str, path: Path) -> QueueWorker:
    spec = importlib.util.spec_from_file_location(f"orderflow_workers.{name}", path)
    if spec is None or spec.loader is None:
        raise InvalidWorker(path=path, reason="it cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    worker = getattr(module, "worker", None)
    if not isinstance(worker, QueueWorker):
        raise InvalidWorker(path=path, reason="it has no `worker = QueueWorker(…)`")
    return worker
