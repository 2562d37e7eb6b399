"""The steps from the members to the ensemble as tables: what was fitted, and what each step gives."""

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
    return (
        f"Fitted to {told['images']:,} validation images, in {told['folds']} folds of whole lesions: each figure is of "
        "images that the step was not fitted to. Tau is how much of the class frequencies that it learned is taken out "
        "of each member, p / prior^tau; it stays as near to 1 as the best recall allows within one standard error. The "
        f"temperature scales the probabilities and changed {told['decisions_changed_by_temperature']} decisions. The "
        "members and their epochs were chosen by these images, so that the figures are optimistic all the same."
    )
