"""One training stage: what it will do, its live charts, what came of it. SFT, reward model, PPO and DPO alike."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from rlhf_lite import events, health, jobs, report, stages
from rlhf_lite.errors import UserError
from rlhf_lite.project import RunStatus
from rlhf_lite.settings import Preset
from rlhf_lite.tui import keys
from rlhf_lite.tui.feed import Change, Watched
from rlhf_lite.tui.page import Page
from rlhf_lite.tui.widgets.jobline import JobLine
from rlhf_lite.tui.widgets.runcharts import RunCharts

TITLES = {"ppo": "PPO", "reward": "Reward model", "dpo": "DPO", "sft": "Warm-up (SFT)"}
ABOUT = {
    "ppo": "PPO samples answers, has the reward model score them, and moves the policy towards what scores well, on a "
    "leash: KL to the reference may not exceed the budget.",
    "dpo": "DPO learns from the labels directly, without a reward model, on PPO's leash: now and then it answers "
    "held-out prompts, and ends where their KL to the reference exceeds the target.",
    "reward": "The reward model learns to tell which of two answers you would like better. Labels on held-out prompts "
    "say how often it agrees with you.",
    "sft": "SFT imitates the answers you wrote or chose. PPO and DPO then start from there.",
}


class StagePage(Page):
    PAGE = "stage"
    BINDINGS = keys.bindings("stage")
    HELP_TEXT = (
        "Training runs in a process of its own: leave the page or the app and it goes on. Reward should rise, and KL "
        "says how far the answers have moved from where they started; more of one always costs the other. The line "
        "below the charts says in words whether all is well, and what to do if not. What you change here counts from "
        "the next step on and is written into the run's log."
    )

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.PAGE_NAME = stage
        self.title = TITLES[stage]
        self._shown: Watched | None = None
        self._asked: dict[str, tuple[int, float]] = {}  # after so many measured steps, and what for

    def body(self) -> Iterable[Widget]:
        yield JobLine(ascii=self.desk.ascii, id="line")
        yield RunCharts(self.stage, self.preset, ascii=self.desk.ascii, id="charts")
        yield Static(id="health", markup=False)
        yield Static(id="sample", markup=False)
        yield VerticalScroll(Static(id="result", markup=False), id="about", can_focus=False)

    @property
    def watched(self) -> Watched | None:
        """The newest run of this stage."""
        return self.feed.newest(self.stage)

    @property
    def preset(self) -> Preset:
        watched = self.watched
        return watched.run.settings().preset if watched else stages.preset_of(self.project, [])

    def shows(self, change: Change) -> bool:
        began = any(isinstance(event, events.Started) for event in change.events)
        return change.watched is self.watched or change.ended or began

    def redraw(self) -> None:
        with self.told():
            watched = self.watched
            live = watched is not None and watched.status.metrics
            self.query_one("#charts").display = bool(live)
            self.query_one("#about").set_class(not live, "-alone")
            self.query_one("#sample").display = bool(watched and watched.status.samples)
            self.query_one("#health").display = watched is not None
            line = self.query_one(JobLine)
            line.display = watched is not None
            if watched:
                line.note(watched)
                self._feed_charts(watched)
                self._draw_health(watched)
                self._draw_sample(watched.status)
            self.query_one("#result", Static).update(self._words(watched))
            self.refresh_bindings()

    def _feed_charts(self, watched: Watched) -> None:
        charts = self.query_one(RunCharts)
        if watched is not self._shown:
            self._shown = watched
            charts.begin_anew()
        charts.feed(watched.status)

    def _draw_health(self, watched: Watched) -> None:
        line = self.query_one("#health", Static)
        if self.stage == "ppo" and watched.status.metrics:
            found = health.of_ppo(watched.status, self.preset.ppo)
            if not (watched.busy or watched.status.failure):
                found = _in_hindsight(found)
        elif self.stage == "reward" and watched.status.result:
            found = health.of_reward(watched.status)
        else:
            line.display = False
            return
        mark, arrow = (
            ("", "Next:") if self.desk.ascii else ({"ok": "✔ ", "watch": "≈ ", "bad": "✘ "}[found.level], "→")
        )
        style = {"ok": "green", "watch": "yellow", "bad": "bold red"}[found.level]
        line.update(Text(mark + found.words + (f" {arrow} {found.action}" if found.action else ""), style))

    def _draw_sample(self, status: RunStatus) -> None:
        if not status.samples:
            return
        last = status.samples[-1]
        first = next((s for s in status.samples if s.prompt == last.prompt), last)
        text = Text(f"Sample at step {last.step}  {last.prompt}", "bold", no_wrap=True, overflow="ellipsis")
        text.append(f"\nnow  {_score(last)} {last.completion.replace(chr(10), ' ')}", "not bold")
        if first is not last:
            text.append(f"\nwas  {_score(first)} {first.completion.replace(chr(10), ' ')}", "not bold dim")
        self.query_one("#sample", Static).update(text)

    def _words(self, watched: Watched | None) -> Text:
        if watched is None or watched.state == "new":
            return Text(f"{ABOUT[self.stage]}\n\n{self._settings_words()}\n\n{self._next('starts it')}")
        status, text = watched.status, Text()
        if not watched.busy:
            found = report.trained_words(status.result) if status.result else []
            text.append(f"{watched.run.name} {self._end_words(watched)}", "bold")
            text.append("".join(f" · {words}" for words in found) + "\n")
            again = "goes on from its last checkpoint" if self._unfinished(watched) else "starts a new run"
            text.append(f"{self._next(again)}\n", "dim")
        for warning in status.warnings:
            text.append(f"{warning.text}" + (f" ({warning.hint})" if warning.hint else "") + "\n", "yellow")
        for change in status.changes:
            why = f" ({change.why})" if change.why else ""
            text.append(f"step {change.step}: {change.name} is now {change.value:g}{why}\n")
        return text

    def _next(self, enter: str) -> str:
        """What Enter does, or what has to end before it does that."""
        return f"It waits for {self._before}." if self._before else f"Enter {enter}."

    @property
    def _before(self) -> str:
        """The job of the project that has the device now: there is one at a time."""
        others = (w.run for w in self.feed.busy if w is not self.watched)
        return next((run.name for run in others if run.stage not in jobs.WITHOUT_DEVICE), "")

    def _unfinished(self, watched: Watched) -> bool:
        return watched.state in ("stopped", "failed", "died") and bool(watched.run.checkpoints())

    def _settings_words(self) -> str:
        section = getattr(self.preset, self.stage)
        names = [
            n
            for n in ("steps", "episodes", "epochs", "batch_size", "learning_rate", "kl_budget")
            if hasattr(section, n)
        ]
        return " · ".join(f"{n.replace('_', ' ')} {getattr(section, n):g}" for n in names)

    def _end_words(self, watched: Watched) -> str:
        failure = watched.status.failure
        if watched.state == "failed" and failure:
            return f"failed: {failure.message}. {failure.why} Next: {failure.hint}"
        if watched.state == "died":
            return f"ended without a word; its log: {watched.run.log_path}"
        return "finished" if watched.state == "finished" else "stopped, saved"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that only a running job hears are not shown beside one that rests."""
        busy = self.desk.feed is not None and self.watched is not None and self.watched.busy
        match action:
            case "start":
                return not busy
            case "pause" | "stop":
                return busy
            case "kl_coef" | "rate":
                return busy and self.stage == "ppo"
            case "other" | "samples":
                return self.stage in ("ppo", "dpo")
            case _:
                return True

    def action_start(self) -> None:
        with self.told():
            watched = self.watched
            if watched and watched.busy:
                raise UserError(f"{watched.run.name} is running", hint="s stops and saves it")
            if self._before:
                raise UserError(
                    f"it waits for {self._before}", why=f"one job at a time has the {jobs.device_name()}",
                    hint="start it when that one has ended, or stop that one on its own page",
                )  # fmt: skip
            if watched and self._unfinished(watched):
                prepared = stages.resume(self.project, self.stage, None)
            else:
                prepared = stages.train(self.project, stages.preset_of(self.project, []), self.stage, None)
            self.start(prepared)
            self.redraw()

    def action_stop(self) -> None:
        watched = self.watched
        if watched and watched.busy:
            jobs.stop(watched.run)
            self.notify("It finishes its step, saves, and stops.")

    def action_pause(self) -> None:
        watched = self.watched
        if watched and watched.busy:
            paused = not watched.paused
            jobs.control(watched.run, type="pause" if paused else "resume")
            self.notify("It pauses after this step; space goes on." if paused else "It goes on.")
            self.redraw()

    def action_kl_coef(self, factor: float) -> None:
        self._change("kl_coef", "objective/kl_coef", factor)

    def action_rate(self, factor: float) -> None:
        self._change("learning_rate", "lr", factor)

    def _change(self, name: str, metric: str, factor: float) -> None:
        """By a factor of what it is: as last measured, or as just asked for; before the first step as it was set."""
        watched = self.watched
        if self.stage != "ppo" or watched is None or not watched.busy:
            return
        metrics = watched.status.metrics
        asked_at, asked = self._asked.get(name, (-1, 0.0))
        measured = next((m.values[metric] for m in reversed(metrics) if metric in m.values), None)
        now = asked if asked_at == len(metrics) else measured or getattr(self.preset.ppo, name)
        jobs.control(watched.run, type="set", name=name, value=now * factor)
        self._asked[name] = len(metrics), now * factor
        self.notify(f"{name} becomes {now * factor:.3g} at the next step.")

    def action_metric(self) -> None:
        if self.watched:
            self.query_one(RunCharts).cycle(self.watched.status)

    def action_samples(self) -> None:
        self.rlhf.show("samples")

    def action_window(self) -> None:
        self.query_one(RunCharts).window()

    def action_other(self) -> None:
        if self.stage in ("ppo", "dpo"):
            self.app.switch_screen("dpo" if self.stage == "ppo" else "ppo")


def _in_hindsight(found: health.Health) -> health.Health:
    """The same of a run that is over: nothing is measured any more, and there is nothing to wait for."""
    if found.words.startswith("measuring"):
        return health.Health("ok", "It ended before anything could be told.")
    first = found.words[0].lower() if found.words[1].islower() else found.words[0]
    words = f"At the end: {first}{found.words[1:].replace(': ', ', ', 1)}"
    return health.Health(found.level, words, "" if found.action.startswith("wait") else found.action)


def _score(sample: events.Sample) -> str:
    return "" if sample.score is None else f"({sample.score:+.2f})"
