"""For the whole session, before anything imports Ray.

Ray starts its own clusters with token authentication, writes a token into the home directory, and keeps the
mode for the life of a process: one mode for all tests, so that a suite does not leave another one its own.
Tests of authentication start their nodes in processes of their own.
"""

import os

os.environ["RAY_AUTH_MODE"] = "disabled"
