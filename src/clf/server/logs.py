# SPDX-License-Identifier: Apache-2.0
"""What a server prints: structured lines without variables of the program, because those may be secrets."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging() -> None:
    """One JSON object a line on standard error; levels from INFO.

    Every process calls this, workers too: the library's default would print the variables of every frame.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
            ),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def library_logging() -> dict[str, object]:
    """Lines of libraries: the HTTP server's warnings, without access logs (paths belong in the audit log alone)."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "loggers": {
            "_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            "granian.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
            # A database that is gone is told where something was asked of it, in our own form.
            "psycopg": {"handlers": [], "level": "CRITICAL", "propagate": False},
        },
    }
