"""Tables of labels and the images of a folder become rows: one for each image, with its group and its official role."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.errors import few
from core.layouts.contract import TRAIN, Recognised, Row
from core.layouts.group_tables import Groups, read_groups
from core.layouts.grouping import Group, connect
from core.layouts.image_names import ImageNames, folder_role, path_role, without_masks
from core.layouts.labels import Labelled, LabelTable
from core.listing import Listing

# The one row of ISIC 2018's official test that has no image; it counts for nothing there.
_WITHOUT_IMAGE = "ISIC_0035068"
_MOST_REASONS = 3  # of many tables no more are described


@dataclass(frozen=True)
class _LookedUp:
    """What the names in tables stand for.

    Attributes:
        said: By an image's path, what is said of it, with the role that its table tells.
        missing: Names that stand for no image.
        weightless: Names that stand for no image and need none, because they count for nothing.
        clashing: By name, the different images that it may stand for.
        elsewhere: By name, images that lie elsewhere than the others of the table and so are hardly meant.
        left_out: Images whose lines cannot be used.
    """

    said: defaultdict[str, list[Labelled]] = field(default_factory=lambda: defaultdict(list))
    missing: set[str] = field(default_factory=set)
    weightless: set[str] = field(default_factory=set)
    clashing: dict[str, Sequence[str]] = field(default_factory=dict)
    elsewhere: dict[str, Sequence[str]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)


def join(listing: Listing, tables: Sequence[LabelTable]) -> Recognised:
    """Brings a folder's tables of labels and its images together; its other tables may tell lesions or patients."""
    images, masks = without_masks(listing.images)
    names = ImageNames(listing.root, images)
    found = _look_up(names, tables)
    used = found.said.keys() | found.left_out | {image for several in found.clashing.values() for image in several}
    unlabelled = [image for image in images if image not in used]
    copies = names.copies(used, among=unlabelled)
    groups, group_of, joined = _find_groups(found, listing, tables, set(images) - copies)
    rows, contradictions = _one_row_each(found, tables, group_of)
    rows, roles = _with_roles([row for row in rows if row.path not in groups.disputed])
    return Recognised(
        layout=max(tables, key=lambda table: len(table.lines)).layout,
        reason=_reason(tables),
        rows=rows,
        missing=sorted(found.missing),
        unlabelled=[image for image in unlabelled if image not in copies],
        faults=[
            *(fault for table in tables for fault in table.faults),
            *_clashes(listing.root, found),
            *_elsewhere(found),
            *contradictions,
            *groups.faults,
        ],
        notes=[
            *(note for table in tables for note in table.notes),
            *_names_of_parts(tables),
            *groups.notes,
            *joined,
            *roles,
            *_weightless(found),
            *masks,
        ],
    )


def _look_up(names: ImageNames, tables: Iterable[LabelTable]) -> _LookedUp:
    found = _LookedUp()
    for table in tables:
        role = table.role
        images_of = [names.find(line.name, table=table.path, role=line.split or role) for line in table.lines]
        elsewhere = _find_elsewhere(table, images_of)
        found.elsewhere.update(elsewhere)
        for line, images in zip(table.lines, images_of, strict=True):
            if line.name in elsewhere:
                continue
            if len(images) == 1:
                found.said[images[0]].append(line if line.split or not role else replace(line, split=role))
            elif images:
                found.clashing[line.name] = images
            elif line.weightless or line.name == _WITHOUT_IMAGE:
                found.weightless.add(line.name)
            else:
                found.missing.add(line.name)
        for name in table.left_out:
            found.left_out.update(names.find(name, table=table.path, role=role))
    return found


def _find_elsewhere(table: LabelTable, images_of: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    """File names by which a table calls only images outside its folder, though most of its images lie inside.

    Every site may have its ``30.jpg``: where one site has lost that photo, another's shows another patient.
    """
    folder = table.path.rpartition("/")[0]
    if not folder:
        return {}
    found = [(line.name, images) for line, images in zip(table.lines, images_of, strict=True) if images]
    outside = {name: images for name, images in found if not any(image.startswith(f"{folder}/") for image in images)}
    if 2 * len(outside) >= len(found):
        return {}
    return {name: images for name, images in outside.items() if "/" not in name.replace("\\", "/")}


def _one_row_each(
    found: _LookedUp, tables: Sequence[LabelTable], group_of: Mapping[str, str]
) -> tuple[list[Row], list[str]]:
    """Rows of images of which all tables say the same, and faults for the others."""
    rows = []
    several: dict[str, list[str]] = {"label": [], "official part": []}
    for image, lines in found.said.items():
        if len(lines) == 1:
            rows.append(Row(image, lines[0].label, group_of.get(image, ""), lines[0].split))
            continue
        labels = list(dict.fromkeys(line.label for line in lines))
        splits = list(dict.fromkeys(line.split for line in lines if line.split))
        if len(labels) > 1:
            several["label"].append(f"{lines[0].name} ({', '.join(labels)})")
        elif len(splits) > 1:
            several["official part"].append(f"{lines[0].name} ({', '.join(splits)})")
        else:
            rows.append(Row(image, labels[0], group_of.get(image, ""), splits[0] if splits else ""))
    total, out = len(found.said), f"Correct {few([table.path for table in tables])}."
    return rows, [
        f"Every image must have one {what}, but {len(names):,} of {total:,} have several: {few(names)}. {out}"
        for what, names in several.items()
        if names
    ]


def _find_groups(
    found: _LookedUp, listing: Listing, tables: Sequence[LabelTable], images: set[str]
) -> tuple[Groups, dict[str, str], list[str]]:
    """What other tables tell of lesions and patients; the group of each image by all tables; what was joined."""
    used = {table.path for table in tables}
    others = tuple(table for table in listing.tables if table not in used)
    groups = read_groups(replace(listing, tables=others), ImageNames(listing.root, sorted(images)))
    said: dict[str, Collection[Group]] = dict(groups.of)
    for image, lines in found.said.items():
        own = lines[0].groups if len(lines) == 1 else {group for line in lines for group in line.groups}
        said[image] = {*own, *said[image]} if image in said else own
    return groups, *connect(said)


def _names_of_parts(tables: Sequence[LabelTable]) -> list[str]:
    """A note on files called like parts, which tells nothing of tables that anybody may have written."""
    named = [table.path for table in tables if not table.role and path_role(table.path)]
    if len(tables) < 2 or not named:
        return []
    return [f"the names of {few(named)} make no official parts; a column `split` or folders named train and test do"]


def _with_roles(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows with their official roles, as far as there are two parts or more; and what was concluded.

    What neither its table nor its folder puts into a part is for training where there is an official test or
    validation part only: HAM10000's own table beside that of its test.
    """
    told = [row if row.split or not (role := folder_role(row.path)) else replace(row, split=role) for row in rows]
    counts = Counter(row.split for row in told)
    parts = {part for part in counts if part}
    if len(parts | ({TRAIN} if counts[""] else set())) < 2:
        return [replace(row, split="") if row.split else row for row in told], []
    if len(parts) > 1 or not counts[""]:
        return told, []
    note = f"the {counts['']:,} images that nothing puts into the official {parts.pop()} part are for training"
    return [row if row.split else replace(row, split=TRAIN) for row in told], [note]


def _clashes(root: Path, found: _LookedUp) -> list[str]:
    if not found.clashing:
        return []
    culprits = [f"{name} ({few(images)})" for name, images in found.clashing.items()]
    return [
        f"Every image id must stand for one image, but {len(culprits):,} have different files below {root}: "
        f"{few(culprits)}. Remove the wrong ones."
    ]


def _elsewhere(found: _LookedUp) -> list[str]:
    if not found.elsewhere:
        return []
    culprits = [f"{name} ({few(images)})" for name, images in found.elsewhere.items()]
    return [
        "Images must lie below the folder of the table that gives their names only, if most of its images do, but "
        f"{len(culprits):,} lie elsewhere: {few(culprits)}. Add the right ones there, or give these with their folders."
    ]


def _weightless(found: _LookedUp) -> list[str]:
    names = sorted(found.weightless)
    rows = "row has" if len(names) == 1 else "rows have"
    return [f"{len(names):,} {rows} no image and no weight in the official score: {few(names)}"] if names else []


def _reason(tables: Sequence[LabelTable]) -> str:
    more = len(tables) - _MOST_REASONS
    reasons = [table.reason for table in tables[:_MOST_REASONS]] + ([f"so have {more} more tables"] if more > 0 else [])
    return "; ".join(reasons)
