"""What can be downloaded: public image sets with their licences, addresses, sizes and published checksums.

A checksum stands here only if the publisher's own source gives it; docs/downloads.md says which files have none.
"""

from dataclasses import dataclass

from core.download_names import NAMES

_CC_BY_NC = "CC BY-NC 4.0, no commercial use: https://creativecommons.org/licenses/by-nc/4.0/"
_HAM10000_PAPER = (
    "Tschandl, Rosendahl, Kittler: The HAM10000 dataset, a large collection of multi-source dermatoscopic images of "
    "common pigmented skin lesions. Sci. Data 5, 180161 (2018). doi:10.1038/sdata.2018.161"
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        name: What it is called here, whatever a server calls it. A name in .zip is unpacked, others are kept as they
            are.
        urls: Addresses that serve it; a later one is asked if the earlier ones don't. Empty if Dataverse names them.
        megabytes: About its size, for what is shown and for the free space that is asked for; 0 if unknown.
        checksum: The publisher's, as ``md5:…`` or ``sha256:…``; empty if there is none.
        folder: An archive's members go into this folder below the target; empty for the target itself.
    """

    name: str
    urls: tuple[str, ...] = ()
    megabytes: float = 0
    checksum: str = ""
    folder: str = ""

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return self.name.endswith(".zip")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """An image set.

    Attributes:
        name: What `--download` calls it; a mirror has a folder of this name.
        title: What people call it.
        licence: Its licence in words.
        citation: What its authors ask to be cited.
        page: Where people read about it and could download it by hand.
        files: What it consists of.
        dataverse: Address of the Dataverse installation that is asked for the files' addresses and checksums; empty if
            they stand here.
        doi: What Dataverse calls it.
    """

    name: str
    title: str
    licence: str
    citation: str
    page: str
    files: tuple[RemoteFile, ...]
    dataverse: str = ""
    doi: str = ""


def mirrored(collection: Collection, base: str) -> Collection:
    """The same set as a mirror has it: every file by its name in a folder of the set's name. Checksums still hold."""
    from dataclasses import replace

    folder = f"{base.rstrip('/')}/{collection.name}"
    files = tuple(replace(file, urls=(f"{folder}/{file.name}",)) for file in collection.files)
    return replace(collection, files=files, page=folder, dataverse="", doi="")


def _isic(year: int, name: str, megabytes: float) -> RemoteFile:
    # Public downloaders use both buckets, the recent ones the first. The sizes are theirs, too, rounded up.
    bases = ("https://isic-archive.s3.amazonaws.com/challenges", "https://isic-challenge-data.s3.amazonaws.com")
    return RemoteFile(name=name, urls=tuple(f"{base}/{year}/{name}" for base in bases), megabytes=megabytes)


def _dermamnist(name: str, side: int, file: str, md5: str) -> Collection:
    return Collection(
        name=name,
        title=f"DermaMNIST, {side} px (MedMNIST+)",
        licence=_CC_BY_NC,
        citation=(
            "Yang et al.: MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image "
            f"classification. Sci. Data 10, 41 (2023). doi:10.1038/s41597-022-01721-8. And: {_HAM10000_PAPER}"
        ),
        page="https://zenodo.org/records/10519652",
        files=(
            RemoteFile(
                name=file,
                urls=(f"https://zenodo.org/records/10519652/files/{file}?download=1",),
                megabytes=10_015 * side * side * 3 / 1e6,  # of the pixels uncompressed, so at most
                checksum=f"md5:{md5}",
            ),
        ),
    )


_COLLECTIONS = (
    Collection(
        name="ham10000",
        title="HAM10000",
        licence=_CC_BY_NC,
        citation=_HAM10000_PAPER,
        page="https://doi.org/10.7910/DVN/DBW86T",
        dataverse="https://dataverse.harvard.edu",
        doi="10.7910/DVN/DBW86T",
        files=(
            RemoteFile(name="HAM10000_images_part_1.zip", folder="HAM10000_images_part_1"),
            RemoteFile(name="HAM10000_images_part_2.zip", folder="HAM10000_images_part_2"),
            RemoteFile(name="HAM10000_metadata"),
        ),
    ),
    Collection(
        name="isic2018",
        title="ISIC 2018 Task 3: training, validation and official test",
        licence=_CC_BY_NC,
        citation=(
            "Codella et al.: Skin Lesion Analysis Toward Melanoma Detection 2018. arXiv:1902.03368 (2019). "
            f"And: {_HAM10000_PAPER}"
        ),
        page="https://challenge.isic-archive.com/data/#2018",
        files=(
            _isic(2018, "ISIC2018_Task3_Training_Input.zip", 2_772),
            _isic(2018, "ISIC2018_Task3_Training_GroundTruth.zip", 0.1),
            _isic(2018, "ISIC2018_Task3_Training_LesionGroupings.csv", 0.5),
            _isic(2018, "ISIC2018_Task3_Validation_Input.zip", 54),
            _isic(2018, "ISIC2018_Task3_Validation_GroundTruth.zip", 0.1),
            _isic(2018, "ISIC2018_Task3_Test_Input.zip", 420),
            _isic(2018, "ISIC2018_Task3_Test_GroundTruth.zip", 0.1),
        ),
    ),
    Collection(
        name="isic2019",
        title="ISIC 2019: training and test",
        licence=_CC_BY_NC,
        citation=(
            f"{_HAM10000_PAPER} And: Codella et al.: Skin Lesion Analysis Toward Melanoma Detection, ISBI 2017. "
            "arXiv:1710.05006. And: Combalia et al.: BCN20000, Dermoscopic Lesions in the Wild. arXiv:1908.02288"
        ),
        page="https://challenge.isic-archive.com/data/#2019",
        files=(
            _isic(2019, "ISIC_2019_Training_Input.zip", 9_800),
            _isic(2019, "ISIC_2019_Training_GroundTruth.csv", 1.3),
            _isic(2019, "ISIC_2019_Training_Metadata.csv", 1.2),
            _isic(2019, "ISIC_2019_Test_Input.zip", 3_900),
            _isic(2019, "ISIC_2019_Test_GroundTruth.csv", 0.5),
            _isic(2019, "ISIC_2019_Test_Metadata.csv", 0.4),
        ),
    ),
    # The MD5s are those of medmnist's own info.py (package medmnist 3, github.com/MedMNIST/MedMNIST).
    _dermamnist("dermamnist", 224, "dermamnist_224.npz", "8974907d8e169bef5f5b96bc506ae45d"),
    _dermamnist("dermamnist_28", 28, "dermamnist.npz", "0744692d530f8e62ec473284d019b0c7"),
    _dermamnist("dermamnist_64", 64, "dermamnist_64.npz", "b70a2f5635c6199aeaa28c31d7202e1f"),
    _dermamnist("dermamnist_128", 128, "dermamnist_128.npz", "2defd784463fa5243564e855ed717de1"),
)
CATALOGUE = {collection.name: collection for collection in _COLLECTIONS}
assert tuple(CATALOGUE) == NAMES, "core.download_names and the catalogue name different sets"
