# SPDX-License-Identifier: Apache-2.0
"""What things are called in the state folder and in a worker's environment, apart from what opens them: a server's main
process knows the names and imports nothing that reads settings, keys or evidence (`supervise`).
"""

from __future__ import annotations

from typing import Final

STATE_NAME: Final = "state.db"
AUDIT_NAME: Final = "audit"
MARKS_NAME: Final = "monotonic.json"
METRICS_NAME: Final = "metrics"
LOCK_NAME: Final = "server.lock"
ACTIVE_NAME: Final = "policy.active.toml"

FOLDER_VARIABLE: Final = "CLF_SERVER_FOLDER"
ACTIVE_VARIABLE: Final = "CLF_SERVER_ACTIVE"
"""The file with the settings in force (`policy_live`)."""
SERVING_VARIABLE: Final = "CLF_SERVER_SERVING"
"""What the main process serves (`supervise.Serving`); no secret among it."""
