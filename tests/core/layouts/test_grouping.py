from hypothesis import given
from hypothesis import strategies as st

from core.layouts.grouping import Group, connect, contradict

_GROUPS = st.builds(Group, st.booleans(), st.sampled_from("123456"))
_SAID = st.dictionaries(st.sampled_from("abcdefgh"), st.sets(_GROUPS, max_size=3))


@given(_SAID)
def test_images_that_share_a_lesion_or_patient_share_a_name(said: dict[str, set[Group]]) -> None:
    names, _ = connect(said)

    assert names.keys() == {image for image, groups in said.items() if groups}
    for image in names:
        assert all(names[image] == names[other] for other in names if said[image] & said[other])


@given(_SAID, st.randoms())
def test_the_order_does_not_matter(said: dict[str, set[Group]], random: "st.random.Random") -> None:  # type: ignore[name-defined]
    images = list(said)
    random.shuffle(images)

    assert connect({image: said[image] for image in images}) == connect(said)


@given(_SAID)
def test_what_nothing_joins_stays_apart(said: dict[str, set[Group]]) -> None:
    """The names are as many as the components of the graph whose edges are shared lesions and patients."""
    names, _ = connect(said)
    components: list[set[Group]] = []
    for groups in filter(None, said.values()):
        touched = [component for component in components if component & groups]
        components = [component for component in components if not component & groups]
        components.append(groups.union(*touched))

    assert len(set(names.values())) == len(components)


def test_a_group_is_called_by_its_first_patient_or_else_its_first_lesion() -> None:
    said = {
        "a": [Group(True, "L2"), Group(False, "P9")],
        "b": [Group(True, "L2")],
        "c": [Group(True, "L5"), Group(True, "L4")],
        "d": [],
    }

    names, notes = connect(said)

    assert names == {"a": "P9", "b": "P9", "c": "L4"}
    assert notes == ["4 lesions and patients that share images count as 2"]


def test_a_long_chain_is_joined_at_once() -> None:
    said = {str(n): [Group(True, f"{n:06}"), Group(True, f"{n + 1:06}")] for n in reversed(range(50_000))}

    assert set(connect(said)[0].values()) == {"000000"}


def test_one_table_may_name_several_lesions_of_one_patient_only() -> None:
    patient, other = Group(False, "P"), Group(False, "Q")
    lesions = [Group(True, "K"), Group(True, "L")]

    assert contradict([patient, other])
    assert contradict(lesions)
    assert not contradict([patient, *lesions])
    assert not contradict([])


def test_spellings_of_one_name_are_one_group() -> None:
    """Ids become floats where one of a column is unknown; a Mac takes accents apart."""
    spellings = [("12", "12.0"), ("Pat4", "pat4"), ("M\u00fcller", "Mu\u0308ller")]
    said = {f"{n}{m}": [Group(False, name)] for n, names in enumerate(spellings) for m, name in enumerate(names)}

    names, notes = connect({**said, "lesion": [Group(True, "12.0")], "other": [Group(False, "12.5")]})

    assert names["00"] == names["01"] == "12"
    assert names["10"] == names["11"] == "Pat4"
    assert names["20"] == names["21"]
    assert len(set(names.values())) == 5
    assert len(notes) == 1
    assert notes[0].startswith("6 names of lesions and patients are spellings of 3: 12 and 12.0, ")
    assert not contradict([Group(False, "12"), Group(False, "12.0")])
