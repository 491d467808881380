"""A backend whose library is missing everywhere."""

from solver_pool.errors import BackendUnavailable

raise BackendUnavailable("nothing is missing. Install it with 'pip install nothing'.")
