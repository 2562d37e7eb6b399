"""The steps from the members to the ensemble as tables: what was fitted, and what each step gives."""

from core.metrics import Interval
from ensemble.ladder import Rung
from ensemble.tables import Report, Table, percent, span


def rule(report: Report) -> str:
    """How the members' probabilities become one class, in words."""
    rule = report.spec.rule
    averaged = "their logarithms are averaged" if rule.vote == "geometric" else "all are averaged"
    temperature = (
        f" A temperature of {rule.temperature:.2f} scales the ensemble's probabilities and changes no decision."
        if rule.temperature != 1
        else ""
    )
    return (
        "Members are judged by argmax p / prior, corrected for the class frequencies that they learned. In the vote "
        f"each is corrected by p / prior^{rule.tau:g}, then {averaged}.{temperature} Argmax recall is what the "
        "same probabilities give uncorrected. ECE and NLL are of the probabilities by which classes are chosen."
    )


def fitted(report: Report) -> Table:
    """What was fitted to validation, and what each step gives there on lesions that it was not fitted to."""
    header = ("Step", "Fitted", "Macro recall", "95% interval", "Accuracy", "ECE", "NLL")
    rows = [
        (
            step["step"],
            step["value"],
            percent(step["macro_recall"]),
            span(step["macro_recall_interval"]),
            percent(step["accuracy"]),
            f"{step['expected_calibration_error']:.3f}",
            f"{step['negative_log_likelihood']:.3f}",
        )
        for step in report.spec.fitted.get("out_of_fold", [])
    ]
    return Table(header, rows)


def fitted_note(report: Report) -> str:
    """How the table of `fitted` came about."""
    told = report.spec.fitted
    kind = (
        "training and validation images, judged by networks that had not seen their lesions,"
        if (report.is_confirmed)
        else "validation images,"
    )
    chosen = (
        "Which trials may vote was chosen by all of these images, and their settings by some, so that a little "
        "optimism is left; figures are of single networks."
        if report.is_confirmed
        else "The members and their epochs were chosen by these images: the figures are optimistic all the same."
    )
    return (
        f"Fitted to {told['images']:,} {kind} in {told['folds']} folds of whole lesions: each figure is of "
        "images that the step was not fitted to. Tau is how much of the class frequencies that it learned is taken out "
        "of each member, p / prior^tau; it stays as near to 1 as the best recall allows within one standard error. The "
        f"temperature scales the probabilities and changed {told['decisions_changed_by_temperature']} decisions. "
        f"{chosen}"
    )


def ways(report: Report) -> Table:
    """The ways of voting that were compared; no rows if there was nothing to choose."""
    rows = [
        (
            f"{way['vote']}{' (taken)' if way['chosen'] else ''}",
            "any" if way["top_k"] is None else f"{way['top_k']}",
            percent(way["macro_recall"]),
            span(way["macro_recall_interval"]),
        )
        for way in report.spec.fitted.get("ways", [])
    ]
    return Table(("Vote", "Trials an architecture", "Macro recall", "95% interval"), rows)


def ways_note() -> str:
    """How one of `ways` was taken."""
    return (
        "Ways of voting, the simplest first, each with members and weights chosen without the images that judge it. "
        "Taken is the simplest within one standard error of the best."
    )


def ladder(report: Report) -> Table:
    """What each step from the best single trials to the ensemble gains, and what it costs."""
    header = ("Step", "Macro recall", "95% interval", "Gain, points", "95% interval", "Accuracy", "ECE", "NLL")
    rows = [
        (
            rung.name,
            percent(rung.recall),
            span(rung.interval),
            "–" if rung.gain is None else f"{100 * rung.gain:+.1f}",
            _points(rung.gain_interval),
            percent(rung.accuracy),
            f"{rung.ece:.3f}",
            f"{rung.nll:.3f}",
        )
        for rung in report.judged.ladder
    ]
    return Table(header, rows)


def ladder_note(report: Report) -> str:
    """How the ladder is to be read."""
    where = "the test split" if report.test else f"{report.fitted_to}; what was fitted there is judged out of fold"
    return (
        f"Each step on the same images, of {where}. The first steps choose the most probable class; the prior "
        "correction then makes all classes count the same, which finds more of the rare ones and costs accuracy. Gains "
        "are over the step before, and their intervals of the differences between both on the same resampled lesions: "
        "one that holds 0 may be luck."
    )


def over_single(report: Report) -> str:
    """What the ensemble gains over its best single trial, in one sentence."""
    rung = report.judged.over_single
    assert rung.gain is not None, "it has a step before it"
    return (
        "Over its best single member, chosen before the test, both corrected for their priors, the ensemble gains "
        f"{100 * rung.gain:+.1f} points of macro recall (95% interval {_points(rung.gain_interval)})."
    )


def gain(rung: Rung) -> str:
    """A step's gain in a few words."""
    return "" if rung.gain is None else f"{100 * rung.gain:+.1f} points ({_points(rung.gain_interval)})"


def _points(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def flags(report: Report) -> Table:
    """How the flags of each operating point fare, beside the choice of one class."""
    header = ("Class", "Flagged from p", "Sensitivity", "95% interval", "Specificity", "95% interval")
    rows = []
    for flagged in report.judged.flagged:
        found = (percent(flagged.sensitivity), span(flagged.sensitivity_interval))
        spared = (percent(flagged.specificity), span(flagged.specificity_interval))
        rows.append((flagged.class_name, f"{flagged.threshold:.3f}", *found, *spared))
        chosen = (percent(flagged.argmax_sensitivity), "", percent(flagged.argmax_specificity), "")
        rows.append((f"{flagged.class_name}, where it is chosen", "–", *chosen))
    return Table(header, rows)


def flags_note(report: Report) -> str:
    """How the table of `flags` is to be read."""
    wanted = ", ".join(f"{flagged.min_sensitivity:g} of {flagged.class_name}" for flagged in report.judged.flagged)
    where = "the test split" if report.test else "what it was fitted to, out of fold"
    return (
        "An image is flagged if the ensemble's probability of a class is at least a threshold, fitted so "
        f"that this share of the class is found: {wanted}. Sensitivity is the share of the class that is flagged, "
        f"specificity the share of all others that is not, here on {where}; intervals are Wilson's, over lesions. "
        "Beside it, what choosing the most probable class gives: the difference in specificity is what the flags cost."
    )


def watched(report: Report) -> Table:
    """How well each class that is looked at closely is told from the rest."""
    header = ("Class", "Share of the images", "AUROC", "95% interval", "Average precision")
    rows = [
        (
            each.name,
            percent(each.prevalence),
            f"{each.auroc:.3f}",
            f"{each.auroc_interval.low:.3f} to {each.auroc_interval.high:.3f}",
            f"{each.average_precision:.3f}",
        )
        for each in report.judged.watched
    ]
    return Table(header, rows)


def reliability(report: Report) -> Table:
    """How often the ensemble is right where it is about equally sure."""
    rows = [(f"{each.confidence:.1%}", percent(each.accuracy), f"{each.size:,}") for each in report.judged.reliability]
    return Table(("Probability of the chosen class", "Share that is right", "Images"), rows)


def reliability_note(report: Report) -> str:
    """How the diagram is to be read."""
    return (
        "Images in bins by the probability of their chosen class: a dot below the line is where the ensemble is surer "
        "than it has reason to be. Lines are Wilson's 95% intervals, with n = images. The mean distance from the line "
        f"is the calibration error, {report.judged.blend.ece:.3f}."
    )
