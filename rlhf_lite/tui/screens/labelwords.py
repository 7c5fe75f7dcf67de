"""What the label page says about how it goes: the row of figures, the summary at the end, what a quick refit found."""

from __future__ import annotations

from rich.text import Text

from rlhf_lite.labels import Counts
from rlhf_lite.report import interval
from rlhf_lite.sitting import Figures
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.widgets.jobline import clock

BAR = 8  # cells


def figure_parts(found: Figures, pairs: int, ascii: bool) -> list[str]:
    """The row of figures, the most wanted first."""
    done = max(pairs - found.waiting, 0)
    full, empty = ("#", ".") if ascii else ("▓", "░")
    filled = round(BAR * done / pairs) if pairs else 0
    left, longer, same = found.left_share, found.longer_share, found.consistency
    return [
        f"{done}/{pairs} {full * filled}{empty * (BAR - filled)}",
        *([f"{found.per_hour:.0f}/h"] if found.per_hour else []),
        *([f"{clock(found.seconds_left)} left"] if found.seconds_left else []),
        *([f"A {left:.0%}"] if left is not None else []),
        *([f"longer {longer:.0%}"] if longer is not None else []),
        *([f"consistent {same.same}/{same.total}"] if same.total else []),
        "Shift = much better",
    ]


def summary(counts: Counts, figures: Figures, flagged: int) -> Text:
    """Every pair is labelled: what the labels add up to."""
    shares, same = figures.shares, figures.consistency
    rows = [
        f"{counts.labelled} labelled: {counts.a + counts.b} decided, {count_of(counts.tie, 'tie')}, "
        f"{counts.both_bad} both bad; {counts.skipped} skipped",
        f"{figures.per_hour:.0f} labels an hour" if figures.per_hour else "",
        f"you chose the left answer in {shares.left} of {shares.decided}, "
        f"the longer one in {shares.longer} of {shares.unequal}" if shares.decided else "",
        f"asked again, you said the same in {same.same} of {same.total}" if same.total else "",
        f"{flagged} flagged" if flagged else "",
    ]  # fmt: skip
    text = Text("Every pair is labelled.\n\n", "bold")
    text.append("".join(f"  {row}\n" for row in rows if row), "not bold")
    return text.append("\nEnter: train the reward model on them. u takes the last label back.", "not bold")


def refit_words(watched: Watched, before: list[Watched]) -> str:
    """What a quick refit found, beside the reward model ``before`` it."""
    name, failure = watched.run.name, watched.status.failure
    if watched.state != "finished":
        why = f"{failure.message}. {failure.hint}" if failure else "see its log"
        return f"{name} did not finish: {why}"
    then = next((words for w in reversed(before) if (words := accuracy(w))), "")
    moved = f"; the one before: {then}" if then else ""
    learnt = watched.status.result.get("pairs_train")
    return f"{name}, a quick look at {learnt} pairs: {accuracy(watched) or 'no held-out labels yet'}{moved}."


def accuracy(watched: Watched) -> str:
    """``right on 71% (51% to 85%) of 24 held-out labels``; empty where there were none to ask."""
    match watched.status.result:
        case {"accuracy": float(value), "accuracy_interval": bounds, "pairs_heldout": int(number)}:
            return f"right on {interval(value, bounds)} of {number} held-out labels"
        case _:
            return ""


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
