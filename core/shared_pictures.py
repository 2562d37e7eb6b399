"""The pictures of a studies folder at a URL and of a machine's copy of it: what is new in one comes to the other."""

from pathlib import Path

from core.files import written_aside
from core.remote import Remote


def sync_pictures(remote: Remote, folder: Path, noted: Path) -> None:
    """Sends and fetches what is missing. What has been at the URL and is gone there was removed, and goes here too.

    Args:
        remote: The studies folder at its URL.
        folder: Of the pictures, in the copy.
        noted: File that says which were at the URL the last time.
    """
    # Read before the URL is listed: another process of this machine may be sending new ones.
    shared = set(noted.read_text().splitlines()) if noted.is_file() else set()
    here = {file.name for file in folder.glob("[!.]*") if file.is_file()}
    there = {Path(name).name for name in remote.names(f"{folder.name}/*")}
    # Nothing at all is no clearing up, but a place that isn't mounted, or was made anew: this copy may be the last one.
    gone = here & shared - there if there else set()
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    new = here - gone - there
    for name in new:
        remote.put(folder / name, f"{folder.name}/{name}")
    for name in there - here:
        remote.get(f"{folder.name}/{name}", folder / name)
    noted.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(noted) as aside:
        aside.write_text("\n".join(sorted(there | new)))
