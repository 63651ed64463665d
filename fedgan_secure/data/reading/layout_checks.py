"""Folders whose form says that their names or tables would give pictures another label: refused, with what to do.

Only the names of folders and files are looked at. What is refused is refused as a whole: nothing of one patient is
decided by another's files.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from fedgan_secure.data.reading.listing import Listing
from fedgan_secure.data.reading.plans import Kinds
from fedgan_secure.errors import InputError

_PART = re.compile(
    r"(?:train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?|hold[ _-]?out)"
    r"(?:[ _-]?(?:set|images?|imgs?|data|split|part)s?)?"
)
"""Names of folders that are parts of a split of one data set, in lower case and without a leading letter or number."""
_OF_A_STUDY = frozenset({"rawdata", "sourcedata", "derivatives", "code", "stimuli", "phenotype"})
"""Folders of the Brain Imaging Data Structure that hold subjects, and no class."""
_NUMBERED = re.compile(r"^(?:\d+|[a-z])[.)_ -]+(?=\S)")
_EYE = re.compile(r"^.+_(?:left|right)$", re.IGNORECASE)


def refuse_equal_names(listing: Listing, kinds: Kinds) -> None:
    """Refuse pictures of one file name in several folders, where a table names pictures by that name alone.

    Raises:
        InputError: naming two such files and how many names are concerned.
    """
    places: dict[str, list[str]] = {}
    for entry in kinds.pictures:
        places.setdefault(PurePosixPath(entry.path).stem.casefold(), []).append(entry.path)
    equal = [paths for paths in places.values() if len(paths) > 1]
    if equal:
        raise InputError(
            f"{listing.root} holds {len(equal)} names twice, such as {equal[0][0]} and {equal[0][1]}: the table would "
            "give both the same label",
            hint="give the folder of one set (training or testing) with its own table",
        )


def refuse_folders_that_are_no_classes(listing: Listing, kinds: Kinds) -> None:
    """Refuse class folders that are parts of a split, a folder around the real ones, or EyePACS without its table.

    Raises:
        InputError: what the folders seem to be, and which path to give.
    """
    paths = [PurePosixPath(entry.path) for entry in kinds.pictures if "/" in entry.path]
    tops = sorted({path.parts[0] for path in paths})
    deeper = sorted({path.parts[1] for path in paths if len(path.parts) > 2})
    parts = [name for name in tops if _part(name)]
    if len(parts) > 1 or (len(parts) == len(tops) == 1 and deeper):
        raise InputError(
            f"the folders {_listed(parts)} of {listing.root} are parts of a split by their names, not classes"
            + (f"; the classes would be {_listed(deeper)}" if deeper else ""),
            hint=f"give one of them ({listing.root}/{parts[0]}), or set data.label_names if these are the classes",
        )
    if len(tops) != 1:
        return
    within = [path for path in paths if len(path.parts) > 2]
    if len(deeper) > 1 and len(within) == len(paths):
        raise InputError(
            f"{listing.root} holds one folder, {tops[0]}, and the folders {_listed(deeper)} lie within it",
            hint=f"give {listing.root}/{tops[0]} itself, or set data.label_names if that is the one class",
        )
    if all(_EYE.match(path.stem) for path in paths):
        raise InputError(
            f"the pictures in {listing.root}/{tops[0]} are named ID_left and ID_right as in EyePACS, and there is no "
            "table with the columns image,level",
            hint="put trainLabels.csv beside the folder, or set data.label_names for one class",
        )


def _part(name: str) -> bool:
    if name.strip().casefold() in _OF_A_STUDY:
        return True
    return _PART.fullmatch(_NUMBERED.sub("", name.strip().casefold())) is not None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
