"""Addresses of the project for PyPI, from the one variable that names where the repository lives."""

from __future__ import annotations

import os

from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "HISDIFF_REPOSITORY"


class Addresses(MetadataHookInterface):
    """``HISDIFF_REPOSITORY`` is the address of the repository; without it a build names none."""

    def update(self, metadata: dict) -> None:
        """Set the addresses."""
        repository = os.environ.get(VARIABLE, "").rstrip("/")
        metadata["urls"] = (
            {
                "Source": repository,
                "Issues": f"{repository}/issues",
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            }
            if repository
            else {}
        )
