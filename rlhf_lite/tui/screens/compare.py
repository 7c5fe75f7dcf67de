"""Base against tuned, blind: which answers do you like better when you cannot know whose they are?

Nothing about the outcome is shown while it is being voted on, for a result that is watched is a result that is stopped
at the right moment. ``o`` shows all of it; the pair that is on the screen then is spent.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual import on

from rlhf_lite import config, jobs, report, stages
from rlhf_lite.project import POLICY_STAGES, unscored
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Watched
from rlhf_lite.tui.messages import ProjectChanged, RunChanged
from rlhf_lite.tui.screens.judging import JudgingPage, choice_words
from rlhf_lite.tui.screens.labelwords import count_of
from rlhf_lite.tui.widgets.jobline import JobLine
from rlhf_lite.votes import ENOUGH, Ballot, Choice

BAR = 8  # cells
NOTHING_TUNED = (
    "Nothing is tuned yet.\n\n"
    "Enter: train the reward model, then PPO. Or train DPO, which needs no reward model: d on the PPO page."
)


class ComparePage(JudgingPage):
    PAGE = "compare"
    PAGE_NAME = "compare"
    TITLE = "Compare"
    BINDINGS = keys.bindings("compare")
    HELP_TEXT = (
        "Base against tuned on prompts that training never saw, without knowing which is which. Below 30 votes there "
        "is not enough to tell; the interval says how sure the rest is. It takes neither a reward model nor a judge: "
        "where there is one, what it says is told beside your votes."
    )

    def __init__(self) -> None:
        super().__init__()
        self._ballot: Ballot | None = None
        self._revealed = self._sure = False

    def on_screen_resume(self) -> None:
        self._draw()

    @on(ProjectChanged)
    def _project_changed(self) -> None:
        if self.app.screen is self:
            self._draw()

    @on(RunChanged)
    def _run_changed(self, message: RunChanged) -> None:
        if message.change.watched.run.stage in ("eval", *POLICY_STAGES):
            self._draw()

    @property
    def policy(self) -> Watched | None:
        return self.feed.newest(*POLICY_STAGES, state="finished")

    @property
    def evaluation(self) -> Watched | None:
        """The newest evaluation, where it is younger than the policy."""
        found, policy = self.feed.newest("eval"), self.policy
        return found if found and policy and found.run.number > policy.run.number else None

    def _draw(self) -> None:
        with self.told():
            found, policy = self.evaluation, self.policy
            line = self.query_one(JobLine)
            line.display = found is not None and found.busy
            if found and found.busy:
                line.note(found)
            if policy is None:
                self._wait(Text(NOTHING_TUNED))
            elif found is None or not _has_answers(found):
                self._wait(_before(found, policy))
            else:
                self._open(found, policy)
                self._show()

    def _wait(self, words: Text) -> None:
        self._ballot = None
        self.advise("")
        self.stats(())
        self.tell(words)

    def _open(self, found: Watched, policy: Watched) -> None:
        if self._ballot is None or self._ballot.folder != found.run.folder:
            self._ballot = Ballot(found.run.folder, self.project.file.seed, prefer=policy.run.name)
            self._revealed = False

    def _show(self) -> None:
        """The next pair, or what came out."""
        ballot = self._ballot
        assert ballot is not None, "only called with one"
        self._sure = False
        if self._revealed:
            return
        total = ballot.votes + ballot.waiting
        self._draw_figures(ballot, total)
        self.advise("")
        if ask := ballot.current:
            self.ask(f"{ballot.votes + 1} of {total}", ask.prompt, ask.left, ask.right)
        else:
            self.tell(self._outcome(ballot))

    def _draw_figures(self, ballot: Ballot, total: int) -> None:
        full, empty = ("#", ".") if self.desk.ascii else ("▓", "░")
        filled = round(BAR * ballot.votes / total) if total else 0
        same, missing = ballot.tally.unchanged, ENOUGH - ballot.tally.votes
        self.stats(
            [
                f"{ballot.votes}/{total} {full * filled}{empty * (BAR - filled)}",
                *([f"{missing} more to tell"] if missing > 0 else []),
                *([f"{same} identical, not asked"] if same else []),
                "o reveals",
                "l adds them to the labels",
            ]
        )

    def _outcome(self, ballot: Ballot) -> Text:
        tally = ballot.tally
        text = Text(f"{tally.sentence}\n", "bold").append(f"{tally.verdict}\n\n", "not bold")
        rows = self._measured(ballot)
        text.append("".join(f"  {row}\n" for row in rows), "not bold")
        left = "Every pair is voted on. " if not ballot.waiting else ""
        if left and tally.votes < ENOUGH:
            left += f"For more: {stages.command('eval', self.project, '--samples', 'N')}. "
        return text.append(
            f"\n{left}l adds the votes to the labels. u takes the last vote back. Enter: export.", "not bold"
        )

    def _measured(self, ballot: Ballot) -> list[str]:
        """What the evaluation itself found about these answers."""
        tally, found = ballot.tally, self.evaluation
        result: dict[str, Any] = dict(found.status.result) if found else {}
        one: dict[str, Any] = (result.get("runs") or {}).get(ballot.tuned) or result
        rate = report.interval(one.get("win_rate"), one.get("win_rate_interval"))
        before, after = ((side or {}).get("tokens") for side in (result.get("base"), one.get("tuned")))
        rows = [
            f"{report.UNSCORED}: your votes do" if unscored(result) else "",
            f"{result.get('judge', 'the judge')}: tuned wins {rate}" if one.get("win_rate") is not None else "",
            f"KL to the base {report.number(one.get('kl'))} · tokens an answer "
            f"{report.number(before, '.0f')}, tuned {report.number(after, '.0f')}" if one else "",
            f"the likeliest answer changed on {tally.greedy_changed} of {tally.greedy} prompts",
            f"{count_of(tally.unchanged, 'sampled pair')} identical, not asked" if tally.unchanged else "",
        ]  # fmt: skip
        return [row for row in rows if row]

    # --- what the keys do

    def choose(self, choice: str, strong: bool) -> None:
        if self._ballot is None:
            return
        if self._revealed:
            self.echo("You have seen whose they are: o goes on, blind", "dim")
            return
        with self.told():
            said: Choice = choice  # pyright: ignore[reportAssignmentType]  # the key table names no other
            self._ballot.choose(said, strong=strong)
            self._sure = False
            self._show()
            self.echo(f"{choice_words(choice, strong)} · u to undo")
            if choice == "left" or choice == "right":
                self.panes.flash(choice)

    def action_undo(self) -> None:
        if self._ballot is None or self._revealed:
            return
        with self.told():
            undone = self._ballot.undo()
            self._show()
            self.echo("Taken back: vote again" if undone else "Nothing to undo", "dim")

    def action_reveal(self) -> None:
        """Whose answers these are and how it stands; again: on to the next pair."""
        if self._ballot is None or not self.asking:
            return
        with self.told():
            if self._revealed:
                self._revealed = False
                self.echo("")
                self._show()
                return
            ask = self._ballot.reveal()
            if ask:
                self._revealed = True
                tuned, base = self._ballot.tuned, "base"
                self.panes.reveal(*((tuned, base) if ask.tuned_left else (base, tuned)))
                self.advise("\n".join([self._ballot.tally.sentence, *self._measured(self._ballot)[:2]]))
                self.echo("Revealed; this pair does not count · o goes on, blind")

    def action_add(self) -> None:
        """Asked once, then done."""
        ballot = self._ballot
        if ballot is None:
            return
        if not self._sure:
            self._sure = True
            self.echo(
                f"l again adds {ballot.tally.votes} votes to the labels; on held-out prompts they only check"
            )
            return
        self._sure = False
        with self.told(), self.project.labels() as store:
            added = ballot.add_to_labels(store, f"person:{config.labeller()}")
            known = f", {added.known} were there" if added.known else ""
            lost = f", {added.lost} have no single prompt in the project" if added.lost else ""
            self.echo(f"{added.new} new labels{known}{lost}")
            self.changed()

    def go_on(self) -> None:
        with self.told():
            found = self.evaluation
            if self.policy is None:
                self.rlhf.show("reward")
            elif self._ballot:
                self.rlhf.show("export")
            elif not (found and found.busy):
                self.start(stages.evaluate(self.project, stages.preset_of(self.project, []), [], None, None))
                self._draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("undo", "reveal", "add") and self._ballot is None:
            return False
        return self.asking if action == "reveal" else super().check_action(action, parameters)

    def action_stop(self) -> None:
        found = self.evaluation
        if found and found.busy:
            jobs.stop(found.run)
            self.notify("It stops after this batch of answers.")


def _has_answers(found: Watched) -> bool:
    """A run that failed at its judge has left them too."""
    return not found.busy and (found.run.folder / "samples.jsonl").exists()


def _before(found: Watched | None, policy: Watched) -> Text:
    """Words while there is nothing to vote on."""
    if found and found.busy:
        return Text(
            f"{found.run.name}: base and {policy.run.name} answer the held-out prompts.\n\n"
            "Then you choose between their answers, without knowing whose is which. S stops it."
        )
    text = Text(f"{policy.run.name} has not been compared with the base yet.\n\n")
    if found:
        failure = found.status.failure
        why = f"{failure.message}. {failure.why} Next: {failure.hint}" if failure else found.state
        text.append(f"{found.run.name} left no answers: {why}\n\n", "red")
    return text.append("Enter: both answer the held-out prompts; then you choose between them, blind.")
