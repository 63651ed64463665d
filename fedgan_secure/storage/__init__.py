"""Files and folders of a run and of a site: whole or absent, owner-only where private."""

from fedgan_secure.storage.files import (
    explain_disk,
    in_turn,
    private_folder,
    read_array,
    read_json,
    sole_owner,
    sync_folder,
    write_array,
    write_bytes,
    write_json,
)
from fedgan_secure.storage.run import RunDirectory, default_run_folder
from fedgan_secure.storage.site import SiteDirectory

__all__ = [
    "RunDirectory",
    "SiteDirectory",
    "default_run_folder",
    "explain_disk",
    "in_turn",
    "private_folder",
    "read_array",
    "read_json",
    "sole_owner",
    "sync_folder",
    "write_array",
    "write_bytes",
    "write_json",
]
