# SPDX-License-Identifier: Apache-2.0
"""Every language's client beside that language's own HTTPS client; see `benchmarks.clients.cases`."""
