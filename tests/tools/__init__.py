# SPDX-License-Identifier: Apache-2.0
"""What makes the generated parts of the documentation."""
