"""The figures of a report as text, written once for the page and for Markdown, so that both say the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from core.durations import in_words
from core.metrics import Interval
from ensemble.evaluation import Evaluation, Scores
from ensemble.findings import Finding
from ensemble.mistakes import Mistake
from ensemble.spec import EnsembleSpec

FEW_LESIONS = 10


class Table(NamedTuple):
    """Rows of text under a header; the first column names the row."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that a report tells.

    Attributes:
        spec: The ensemble.
        validation: Figures on the images that the ensemble was fitted to, out of fold: validation, or training and
            validation where trials were confirmed.
        test: Figures on the sealed test split; None where it was left sealed.
        opening: How often the test split, or a part of its images, has been opened, this time counted in; 0 where it
            was left sealed.
        histories: Epochs of each member.
        findings: What each search found.
        mistakes: The mistakes that the ensemble is surest of, among the figures that count.
        photos: A JPEG of each; none where no image was opened.
    """

    spec: EnsembleSpec
    validation: Evaluation
    test: Evaluation | None
    opening: int
    histories: list[list[dict[str, float]]]
    findings: list[Finding]
    mistakes: tuple[Mistake, ...] = ()
    photos: Sequence[bytes] = ()

    @property
    def judged(self) -> Evaluation:
        """The figures that count: on test, or on validation where test was left sealed."""
        return self.test or self.validation

    @property
    def judged_name(self) -> str:
        """The part that they are of."""
        return "the sealed test split" if self.test else self.fitted_to

    @property
    def is_confirmed(self) -> bool:
        """Whether the ensemble was fitted to what confirmed trials believed out of fold, and not to validation."""
        return self.spec.fitted.get("fit_to") == "confirmed"

    @property
    def fit_name(self) -> str:
        """What it was fitted to, as headings call it."""
        return "what confirmed trials said out of fold" if self.is_confirmed else "validation"

    @property
    def fitted_to(self) -> str:
        """The images that it was fitted to."""
        return "training and validation, out of fold" if self.is_confirmed else "validation (optimistic)"

    @property
    def sample(self) -> str:
        """What the figures that count rest on."""
        return self.sample_of(self.judged)

    def sample_of(self, evaluation: Evaluation) -> str:
        """What figures rest on."""
        lesions = f" of {evaluation.lesions:,} lesions" if self.spec.data["grouped"] else ""
        return f"{evaluation.images:,} images{lesions}"


def percent(share: float | None) -> str:
    """A fraction in people's form."""
    return "no images" if share is None else f"{share:.1%}"


def span(interval: Interval | Sequence[float] | None) -> str:
    """An interval in people's form."""
    return "–" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def headline(report: Report) -> str:
    """The result in one sentence, for somebody who has never heard of a macro average."""
    scores, count = report.judged.blend, len(report.spec.classes)
    found = (
        f"Averaged over the {count} classes, {scores.recall * 100:.0f} of 100 images of a class are recognised as such"
    )
    low, high = scores.interval
    return f"{found}; with 95% confidence between {low * 100:.0f} and {high * 100:.0f}."


def caution(report: Report) -> str:
    """What the headline's figure may be taken for."""
    if report.test is None and report.is_confirmed:
        return (
            "Out of fold only: the test split was left sealed. Networks were trained again without the images that "
            "judge them, but settings were chosen with a look at some of these, so that a little optimism is left."
        )
    if report.test is None:
        return (
            "Validation only: the test split was left sealed. The trials were chosen by these very images, so all "
            "figures here are optimistic; only a test can say what to expect of new images."
        )
    if report.opening > 1:
        return (
            f"The test split, or a part of its images, has been opened {report.opening} times in this folder. Only the "
            "first opening was of images that nobody had looked at; choosing between ensembles by later ones makes "
            "their figures optimistic."
        )
    return "The test split has been opened once, by this report, after the ensemble was final."


def few_lesions(report: Report) -> str:
    """Why the headline's interval is too narrow; empty where it is not.

    Resampling a class of which all three lesions were found finds them all again.
    """
    few = [f"{row.name} {row.lesions}" for row in report.judged.blend.per_class if row.lesions < FEW_LESIONS]
    if not few:
        return ""
    return (
        f"The interval is too narrow, because it cannot know what more lesions would show of classes that have fewer "
        f"than {FEW_LESIONS} here: {', '.join(few)}."
    )


def classifiers(report: Report) -> Table:
    """The ensemble and each member."""
    header: tuple[str, ...] = ("Classifier", "Macro recall", "95% interval", "Argmax recall", "Accuracy", "ECE", "NLL")
    judged, validation = report.judged, report.validation
    rows = [_classifier(scores) for scores in (judged.blend, *judged.members)]
    if report.test is None:
        return Table(header, rows)
    optimistic = [percent(scores.recall) for scores in (validation.blend, *validation.members)]
    header = (*header, "Recall out of fold" if report.is_confirmed else "Validation recall (optimistic)")
    return Table(header, [(*row, value) for row, value in zip(rows, optimistic, strict=True)])


def _classifier(scores: Scores) -> tuple[str, ...]:
    recalls = (percent(scores.recall), span(scores.interval), percent(scores.recall_argmax))
    return (scores.name, *recalls, percent(scores.accuracy), f"{scores.ece:.3f}", f"{scores.nll:.3f}")


def class_scores(report: Report) -> Table:
    """How the ensemble fares on each class against the rest."""
    shares = ("Recall", "95% interval", "Precision", "95% interval", "Specificity", "95% interval")
    header = ("Class", "Images", "Lesions", *shares, "AUROC")
    rows = [
        (
            row.name,
            f"{row.images:,}",
            f"{row.lesions:,}",
            percent(row.recall),
            span(row.interval),
            "none taken for it" if row.precision is None else percent(row.precision),
            span(row.precision_interval),
            percent(row.specificity),
            span(row.specificity_interval),
            "–" if row.auroc is None else f"{row.auroc:.3f}",
        )
        for row in report.judged.blend.per_class
    ]
    return Table(header, rows)


def confusion(scores: Scores, classes: Sequence[str]) -> Table:
    """Counts, with the share of the true class."""
    rows = []
    for name, counts in zip(classes, scores.confusion_CC.tolist(), strict=True):
        total = max(1, sum(counts))
        rows.append((name, *(f"{count:,} ({count / total:.0%})" for count in counts)))
    return Table(("True \\ predicted", *classes), rows)


def worst_confusions(report: Report, at_most: int = 3) -> list[str]:
    """The most frequent mistakes as shares of the true class, in words."""
    classes, confusion_CC = report.spec.classes, report.judged.blend.confusion_CC.tolist()
    mistakes = [
        (count / sum(counts), count, sum(counts), classes[truth], classes[predicted])
        for truth, counts in enumerate(confusion_CC)
        for predicted, count in enumerate(counts)
        if truth != predicted and count
    ]
    ranked = sorted(mistakes, key=lambda mistake: (-mistake[0], -mistake[1]))[:at_most]
    return [f"{truth} taken for {taken}: {n:,} of {total:,} ({share:.0%})" for share, n, total, truth, taken in ranked]


def data(report: Report) -> Table:
    """What the ensemble learned from and was tested on."""
    spec, about = report.spec, report.spec.data
    grouped = f"{about['groups']:,} lesions, whole lesions to one split" if about["grouped"] else "no lesions named"
    rows = [
        ("Folder", str(about["root"])),
        ("Layout", str(about["layout"])),
        ("Images", f"{about['images']:,} ({grouped})"),
        ("Classes", ", ".join(spec.classes)),
        ("Fitted to" if report.is_confirmed else "Validation", _fitted_sample(report)),
        ("Test", report.sample_of(report.test) if report.test else "left sealed"),
        ("Split seed", f"{spec.split['seed']} (varies train and validation; the test split is always the same)"),
        ("Data fingerprint", str(about["fingerprint"])),
        ("Test fingerprint", str(spec.split["test"])),
        ("Built", spec.created),
    ]
    return Table(("", ""), rows)


def mistakes(report: Report) -> Table:
    """The mistakes that the ensemble is surest of."""
    rows = [(each.image, each.lesion, each.truth, each.chosen, f"{each.probability:.1%}") for each in report.mistakes]
    return Table(("Image", "Lesion", "Is", "Taken for", "Probability of that"), rows)


def _fitted_sample(report: Report) -> str:
    sample = report.sample_of(report.validation)
    return f"{sample}, training and validation, out of fold" if report.is_confirmed else sample


def configs(report: Report) -> Table:
    """What the members were trained with."""
    members = report.spec.members
    names = list(dict.fromkeys(name for member in members for name in member.config))
    rows = [(name, *(_short(member.config.get(name, "–")) for member in members)) for name in names]
    rows.append(("framing", *(member.arch.framing for member in members)))
    rows.append(("networks", *(str(len(member.files)) for member in members)))
    rows.append(("best epoch", *(f"{member.best_epoch + 1}" for member in members)))
    return Table(("Setting", *(member.name for member in members)), rows)


def gap(history: Sequence[dict[str, float]], best_epoch: int) -> list[str]:
    """By how much a member is better on what it learned from, in words; nothing where its epochs don't tell."""
    best = [row for row in history if row["epoch"] == best_epoch]
    return [
        f"macro recall {100 * (row['train_recall'] - row['val_recall']):+.1f} points in training against validation"
        for row in best
    ]


def versions(report: Report) -> Table:
    """Packages that built the ensemble, and those that each search ran with."""
    columns = [report.spec.versions, *(finding.info.get("versions", {}) for finding in report.findings)]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(str(column.get(name, "–")) for column in columns)) for name in names]
    return Table(("Package", "Ensemble", *(finding.study for finding in report.findings)), rows)


def best_trials(finding: Finding) -> Table:
    """The best trials of a search."""
    best = finding.summary.get("best", [])
    names = list(best[0]["params"]) if best else []
    rows = [
        (
            f"#{trial['number']}",
            percent(trial["recall"]),
            span(trial["recall_interval"]),
            *(_short(trial["params"].get(name, "–")) for name in names),
        )
        for trial in best
    ]
    return Table(("Trial", "Validation recall", "95% interval", *names), rows)


def trial_counts(finding: Finding) -> str:
    """How many trials a search ran, and how long."""
    if not finding.summary:
        return "This search has not written what it found yet."
    counts = finding.summary["trials"]
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("complete", "pruned", "failed"))
    return f"Trials: {kinds}, {in_words(finding.summary['elapsed_s'])} of training."


def commands(report: Report) -> list[str]:
    """What to type to get here again."""
    return [
        *(str(finding.info["command"]) for finding in report.findings if "command" in finding.info),
        report.spec.command,
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
