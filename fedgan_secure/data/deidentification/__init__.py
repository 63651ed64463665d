"""De-identified copies of a folder: DICOM by the confidentiality profile, pictures as bare pixels, each searched again.

The front door is :func:`folder.deidentify_folder`. Nothing is imported here, since the loaders use parts of this.
"""

from fedgan_secure.data.deidentification.folder import DeidentifySettings, deidentify_folder

__all__ = [
    "DeidentifySettings",
    "deidentify_folder",
]
