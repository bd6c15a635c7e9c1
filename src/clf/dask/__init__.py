# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster of enclaves: scheduler and workers prove to one another that they are the same app.

The first enclave keeps the cluster's authority in its memory (`Authority`, `JoinService`); every other one joins it
(`join`) and gets a certificate for some hours. `confined` runs Dask with it: mutual TLS, nothing on a host's disk.
"""
