# SPDX-License-Identifier: Apache-2.0
"""What schemathesis has to be told: a sealed body is bytes."""

import schemathesis

schemathesis.serializer.alias("application/vnd.clf.sealed", "application/octet-stream")
