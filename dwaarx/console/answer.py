"""One expression and its answer in text, awaited if it takes time."""

from __future__ import annotations

from inspect import iscoroutine

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dwaarx.console.evaluate import describe, evaluate, show


@attrs.frozen
class Answer:
    """What was printed, and the result as text (None: there is none) or the error."""

    output: str
    result: str | None
    error: str | None

    @property
    def ok(self) -> bool:
        """Whether nothing was raised."""
        return self.error is None


def answer(expression: str, namespace: dict[str, object]) -> Deferred[Answer]:
    """Run an expression; the Deferred never fails, and cancelling it cancels what it waits for."""
    evaluation = evaluate(expression, namespace)
    value = evaluation.value
    if iscoroutine(value):
        value = Deferred.fromCoroutine(value)

    def finish(result: object) -> Answer:
        if isinstance(result, Failure):
            assert result.value is not None
            return Answer(evaluation.output, None, describe(result.value, namespace))
        text, error = show(result)
        return Answer(evaluation.output, text, error)

    if evaluation.error is not None:
        return succeed(Answer(evaluation.output, None, evaluation.error))
    if isinstance(value, Deferred):
        return value.addBoth(finish)
    return succeed(finish(value))
