"""A backend whose library is missing in the first process that asks for it, as on a node without Ipopt."""

from __future__ import annotations

import os
from pathlib import Path

import faulty_backend

from solver_pool.errors import BackendUnavailable

solve = faulty_backend.solve

try:
    (Path(os.environ[faulty_backend.DIRECTORY]) / "without").touch(exist_ok=False)
except FileExistsError:
    pass
else:
    raise BackendUnavailable("the library is missing. Install it with 'pip install library'.")
