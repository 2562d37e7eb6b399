"""The one exception that means: the user gave something we cannot use."""


class InputError(ValueError):
    """Something the user gave breaks a rule.

    The message is one sentence for people: the rule, the value and the way out. The command lines print it without
    a traceback and exit with 2; anything else that is raised is our own defect and keeps its traceback.
    """
