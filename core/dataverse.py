"""What a Dataverse installation says of its files: addresses, sizes and MD5s, asked for at run time."""

import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from core.download_catalogue import Collection, RemoteFile
from core.errors import InputError, few
from core.transfer import Patience, asked, persist


def look_up(collection: Collection, patience: Patience) -> Collection:
    """The same collection with what its Dataverse says of each file.

    A file is found by its name, with or without the ``.tab`` of a table that Dataverse has converted. Of a converted
    one, the published MD5 is of neither form that can be downloaded (github.com/IQSS/dataverse/issues/9501): then none
    is taken.

    Raises:
        InputError: It can't be reached, or says something else than it should.
    """
    url = f"{collection.dataverse}/api/datasets/:persistentId/?persistentId=doi:{quote(collection.doi)}"
    answer = persist(lambda: _ask(url, patience), done=lambda: 0, url=url, patience=patience)
    try:
        entries = {str(entry["dataFile"]["filename"]): entry["dataFile"] for entry in _entries(answer)}
        files = tuple(_with_source(file, entries, collection.dataverse) for file in collection.files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"`--download {collection.name}` must find its files at {url}, but got {type(error).__name__} for "
            f"{few([str(error)])}. The source has changed: download them from {collection.page} with a browser."
        ) from error
    return replace(collection, files=files)


def _ask(url: str, patience: Patience) -> Any:
    with asked(url, patience) as response:
        return response.json()


def _entries(answer: Any) -> list[Any]:
    return list(answer["data"]["latestVersion"]["files"])


def _with_source(file: RemoteFile, entries: dict[str, Any], server: str) -> RemoteFile:
    name = file.name if file.name in entries else f"{file.name}.tab"
    entry = entries[name]
    converted = "originalFileFormat" in entry
    checksum = "" if converted else f"md5:{_md5(entry)}"
    url = f"{server}/api/access/datafile/{int(entry['id'])}"
    return replace(file, urls=(url,), megabytes=int(entry["filesize"]) / 1e6, checksum=checksum)


def _md5(entry: dict[str, Any]) -> str:
    if not re.fullmatch("[0-9a-f]{32}", entry["md5"]):
        raise ValueError(f"an MD5 {entry['md5']!r}")
    return str(entry["md5"])
