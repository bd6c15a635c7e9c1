# SPDX-License-Identifier: Apache-2.0
"""The protocol as bytes: messages, signatures, sealing, errors. No IO, no clock; spec/protocol.md is its prose."""
