"""What the ensemble is for and what it isn't: the model card of a report.

After Mitchell et al., "Model cards for model reporting", FAT* 2019, sections 4.2 to 4.9.
"""

from core.errors import counted
from core.metrics import Interval
from ensemble.tables import FEW_LESIONS, Report, Table, percent, span


def card(report: Report) -> Table:
    """Intended use and limits, each with what it rests on."""
    spec, scores = report.spec, report.judged.blend
    seen = [row for row in scores.per_class if row.recall is not None]
    worst = min(seen, key=lambda row: row.recall or 0)
    fewest = min(seen, key=lambda row: row.lesions)
    kind = (
        "procedural images" if spec.demo else "images of the kind, from the devices and clinics that it learned from,"
    )
    rows = [
        (
            "Made for",
            f"Research: sorting {kind} into {len(spec.classes)} classes, for a person to check.",
        ),
        (
            "Not made for",
            "Diagnosis, screening or triage of patients; images taken in another way; deciding without a person. It "
            "has no class for what it doesn't know: whatever it is shown gets one of its classes, a healthy hand too.",
        ),
        ("Optimised for", _optimised(report)),
        (
            "Weakest class",
            f"{worst.name}: {percent(worst.recall)} of its images are found ({span(worst.interval)}; "
            f"{counted(worst.lesions, 'lesion')}).",
        ),
        ("Least known class", _least_known(fewest.name, fewest.lesions, fewest.interval)),
        ("Probabilities", _probabilities(report)),
        (
            "Not known",
            "How it fares on images of other clinics, cameras and people. Skin types are not known here, and nothing "
            "is split by age, sex or place on the body: look at those before it is shown to anybody.",
        ),
    ]
    return Table(("", ""), rows)


def _optimised(report: Report) -> str:
    return (
        "Macro recall: every class counts the same, however rare it is. So it takes more frequent lesions for rare "
        f"ones than it would for accuracy, which is {percent(report.judged.blend.accuracy)} here and "
        f"{percent(report.judged.blend.accuracy_argmax)} without the correction."
    )


def _least_known(name: str, lesions: int, interval: Interval | None) -> str:
    few = " Fewer than ten say next to nothing." if lesions < FEW_LESIONS else ""
    return f"{name}: judged on {counted(lesions, 'lesion')}, so that its recall is known as {span(interval)} only.{few}"


def _probabilities(report: Report) -> str:
    return (
        "They lean towards rare classes, by the same correction, and are not the risk of a patient. Where the ensemble "
        f"says how sure it is of a class, it is off by {report.judged.blend.ece * 100:.1f} points on average."
    )
