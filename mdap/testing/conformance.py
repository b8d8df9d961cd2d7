"""Check that a task keeps the promises that the engine relies on."""

from mdap.errors import UsageError
from mdap.rules.methods import check_methods
from mdap.rules.parameters import as_resumed, version_of
from mdap.tasks import Chain, Process, Task
from mdap.testing.chains import ChainWalk
from mdap.testing.findings import Breaches, Conformance, NonconformingError
from mdap.testing.processes import ProcessWalk
from mdap.testing.questions import Effort

__all__ = ["check_task"]


def _check_methods(task: Task) -> None:
    check_methods(type(task), type(task).__name__)


def check_task(
    task: Task, *, steps: int = 2_000, texts: int = 200, seconds: float = 2.0, seed: int = 0
) -> Conformance:
    """Check that *task* keeps the promises that the engine relies on.

    It walks through the task as its oracle decides, and looks at each step: methods are pure and change
    no argument; states and answers survive their JSON; a rendered reply is read back as the answer it was
    rendered from, in the step itself and in each view; no named mistake is right; the task goes on after a
    wrong decision; at its end it is solved. At some steps the parsers get hostile texts: what they do must be
    to answer or to raise `RedFlag`, in bounded time. A process must ask the same
    questions and give the same result in any order of answers; its parts are checked too.

    Args:
        task: a small instance, so that it ends within *steps*.
        steps: how many steps to walk through at most.
        texts: how many mutations of honest replies to try at the steps 0, 1, 3, 7, 15, ...
        seconds: processor time that reading one text may take.
        seed: where the mutations come from.

    Returns:
        What was looked at, and what could not be.

    Raises:
        NonconformingError: the task breaks a promise; the error's text names each breach and its step.
        UsageError: *task* is of no kind that can be checked.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    found = Breaches()
    effort = Effort(steps, texts, seconds, seed)
    if isinstance(task, Chain | Process):
        found.usage("methods are called as mdap calls them", _check_methods, task)
        found.usage("parameters come back from the record", as_resumed, task)
        found.usage("its version can be recorded", version_of, task)
    if found.breaches:
        walked = 0
    elif isinstance(task, Chain):
        walked = ChainWalk(found, as_resumed(task), effort).go()
    elif isinstance(task, Process):
        walked = ProcessWalk(found, as_resumed(task), effort).go()
    else:
        name = type(task).__name__
        raise UsageError(f"{name} cannot be checked: derive it from mdap.Chain or mdap.Process")
    breaches, skipped = tuple(found.breaches), tuple(found.skipped)
    report = Conformance(type(task).__name__, walked, found.texts, breaches, skipped)
    if report.breaches:
        raise NonconformingError(report)
    return report
