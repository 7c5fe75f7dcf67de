"""A walk through the whole app in a real terminal, on the demo model: what a person would press, and what is seen.

    python tests/tour/tour.py            the demo preset as it is
    python tests/tour/tour.py --short    fewer of everything, for CI

Nothing is mocked and nothing is looked up behind the app's back: answers are read off the screen, and judged by
``assets/examples/judge.py`` as by a person of that taste. Everything lies in a temporary folder, which goes away.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from alone import alone, end_jobs
from person import JOB, KEYS, Person, prefer
from reading import dots
from terminal import NotSeen, Terminal, ToolMissing

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Plan:
    """How much of everything. ``preset``: a file that the project is told to use; ``leave``: pause, quit, come back."""

    preset: Path | None
    labels: int
    votes: int
    leave: bool


SHORT = Plan(HERE / "short.toml", labels=40, votes=12, leave=False)
LONG = Plan(None, labels=60, votes=32, leave=True)


class Tour(Person):
    """One walk. The methods in the order of :meth:`walk` are the steps; each ends where the next begins."""

    def __init__(self, plan: Plan, terminal: Terminal, project: Path) -> None:
        super().__init__(terminal, project)
        self.plan = plan

    def walk(self) -> None:
        self.first_start()
        self.new_project()
        self.prompts_and_pairs()
        self.label()
        self.reward_model()
        self.ppo()
        self.compare()
        self.export()
        self.chat()
        self.better()
        self.quit()

    def first_start(self) -> None:
        with self.step("first start: rlhf-lite, and what this machine has") as seen:
            began = time.monotonic()
            self.open_app()
            self.terminal.wait_for("▸ Doctor")
            seen.append(f"drawn after {time.monotonic() - began:.1f} s")
            self.terminal.wait_for("Enter goes on", 30)
            self.terminal.press("Enter")
            self.terminal.wait_for("No project is open")

    def new_project(self) -> None:
        with self.step("a new project, all as it is filled in"):
            self.terminal.press("n")
            self.terminal.wait_for("▸ New project")
            self.terminal.wait_for("demo: built in")
            self.terminal.press("Enter")
            self.terminal.wait_for("No prompts yet")
            if self.plan.preset:
                self.use_preset(self.plan.preset)

    def use_preset(self, preset: Path) -> None:
        """By hand, as the README allows; then the project is opened again from the list."""
        file = self.project / "project.toml"
        text = file.read_text("utf-8")
        assert 'preset = "demo"' in text, text
        file.write_text(text.replace('preset = "demo"', f'preset = "{preset}"'), "utf-8")
        self.terminal.press("Escape")
        self.home_page()
        self.terminal.press("o")
        self.terminal.wait_for("Opened last")
        self.terminal.press("Enter")
        self.home_page()
        self.terminal.press("Enter")
        self.terminal.wait_for("No prompts yet")

    def prompts_and_pairs(self) -> None:
        with self.step("prompts, and pairs of answers until labelling can begin") as seen:
            self.terminal.press("Enter")
            self.terminal.wait_for("300 prompts added")
            self.terminal.wait_for(r"Sample \d+ pairs")
            self.terminal.press("Enter")
            self.terminal.wait_for("loading the model", 5)
            self.terminal.wait_for("Label answers", JOB)
            seen.append(self.terminal.wait_for(r"\d+ pairs of answers")[0])
            self.terminal.wait_for("How the model reads them", 60)
            seen.append("prompts shown as the model reads them")
            self.terminal.press("l")

    def label(self) -> None:
        with self.step(f"{self.plan.labels} labels by keys, one of them taken back") as seen:
            pair, pairs = self.next_pair(None), set[frozenset[str]]()
            for number in range(self.plan.labels):
                following = self.say(pair)
                if number == 9:
                    self.terminal.press("u")
                    self.terminal.wait_for("Taken back")
                    again = self.next_pair(following)
                    self.sure(again == pair, f"undo brought {again}, not {pair}")
                    following = self.say(again)
                pairs.add(frozenset((pair.prompt, pair.a, pair.b)))
                pair = following
            told = self.terminal.wait_for(r"^ +\d+/\d+ [▓░]+.*", 20)[0].strip()
            counts = self.status()["labels"]
            self.sure(counts["labelled"] == len(pairs), f"{len(pairs)} pairs labelled, {counts} stored")
            seen.append(
                f"{len(pairs)} labels stored: {counts['a'] + counts['b']} decided, {counts['tie']} ties"
            )
            seen.append(told)
            self.terminal.press("Escape")
            self.terminal.wait_for("pairs of answers")
            self.terminal.press("Escape")
            self.home_page()
            self.terminal.wait_for(rf"Label pairs +{len(pairs)} labelled")
            self.terminal.wait_for("-generate is running", JOB, gone=True)

    def reward_model(self) -> None:
        with self.step("the reward model") as seen:
            self.terminal.press("5")
            self.terminal.wait_for("▸ Reward model")
            self.terminal.wait_for("Enter starts it")
            self.terminal.press("Enter")
            self.terminal.wait_for(r"training steps \d+/\d+", JOB)
            self.terminal.wait_for(r"-reward finished", JOB)
            self.sure(dots(self.terminal.lines()) > 20, "the charts are empty")
            seen.append(self.terminal.wait_for(r"right on \d+% \([^)]*\) of \d+ held-out pairs")[0])
            self.terminal.press("Escape")
            self.home_page()

    def ppo(self) -> None:
        with self.step("PPO, watched live; its KL coefficient halved by a key") as seen:
            self.terminal.press("6")
            self.terminal.wait_for("▸ PPO")
            self.terminal.wait_for("Enter starts it")
            self.terminal.press("Enter")
            self.terminal.wait_for(r"PPO steps 0/\d+", JOB)
            self.terminal.press("k")
            becomes = self.terminal.wait_for(r"kl_coef becomes ([\d.]+) at the next step", 3)[1]
            self.terminal.wait_for(r"PPO steps 1/\d+", JOB)
            self.sure(dots(self.terminal.lines()) > 0, "the first step is not in the charts")
            self.terminal.wait_for(rf"kl_coef is now {becomes} \(asked for\)", JOB)
            seen.append(f"KL coefficient now {becomes}")
            if self.plan.leave:
                self.pause(seen)
                self.come_back(seen)
            steps = self.watch(r"PPO steps (\d+)/\d+", "-ppo finished")
            self.sure(steps == sorted(steps) and len(steps) > 1, f"steps seen: {steps}")
            self.sure(dots(self.terminal.lines()) > 40, "the charts are all but empty")
            seen.append(f"steps seen: {' '.join(map(str, steps))}")
            seen.append(self.terminal.wait_for(r"^ +([✔≈✘] .*)")[1])
            self.terminal.press("Escape")
            self.home_page()

    def compare(self) -> None:
        with self.step(f"{self.plan.votes} blind votes between base and tuned") as seen:
            self.terminal.press("7")
            self.terminal.wait_for("▸ Compare")
            self.terminal.wait_for("Enter: both answer")
            self.terminal.press("Enter")
            self.terminal.wait_for(r"^ 1 of \d+ ", JOB)
            pair = self.next_pair(None)
            for number in range(self.plan.votes):
                self.sure(pair.prompt.startswith(f"{number + 1} of "), f"vote {number + 1}: {pair.prompt}")
                pair = self.say(pair)
            self.terminal.press("o")
            self.terminal.wait_for("Revealed")
            names = {self.terminal.wait_for(rf"─ {letter} · ([\w-]+)")[1] for letter in "AB"}
            self.sure("base" in names and len(names) == 2, f"revealed: {names}")
            result = self.terminal.wait_for(r"You preferred tuned .*|\d+ of 30 votes: not enough to tell")[0]
            seen.append(result.strip())
            self.terminal.press("Escape")
            self.home_page()

    def export(self) -> None:
        with self.step("export as Q8_0, proven equal") as seen:
            self.terminal.press("8")
            self.terminal.wait_for("▸ Export")
            self.terminal.press("Enter")
            self.terminal.wait_for("Equal to the tuned model", JOB)
            seen.append(self.terminal.wait_for(r"same next token in [^;]*")[0])
            self.sure("NOT equal" not in self.terminal.screen(), "the file is not equal")

    def chat(self) -> None:
        with self.step("chat with the export, and with the tuned model as it speaks") as seen:
            self.terminal.press("c")
            self.terminal.wait_for("▸ Chat")
            self.terminal.wait_for("Say something")
            self.enter("How do I sleep better after a long flight?")
            self.terminal.wait_for(r"gguf · \d+ tokens/s", JOB)
            self.sure(bool(self.answer()), "no answer is on the screen")
            self.enter("/model tuned")
            self.enter("How do I learn to cook for ten people?")
            until, grown = time.monotonic() + JOB, set[int]()
            while not re.search(r"tuned · \d+ tokens/s", self.terminal.screen()):
                grown.add(len(self.answer()))
                self.sure(time.monotonic() < until, "no answer came to its end")
            self.sure(len(grown) > 2 and bool(self.answer()), f"seen to grow: {sorted(grown)} letters")
            seen.append(f"seen to grow {len(grown)} times")
            seen.append(self.terminal.wait_for(r"\d+ tokens/s")[0])

    def better(self) -> None:
        with self.step("a better answer by /better") as seen:
            before = self.status()["labels"]["labelled"]
            for _ in range(3):  # a small model may say the same again
                self.enter("/better")
                if self.terminal.wait_for("Which is better|the same again", JOB)[0] == "Which is better":
                    break
            pair = self.next_pair(None)
            self.terminal.press(KEYS[prefer(pair.prompt, pair.a, pair.b)])
            now = int(self.terminal.wait_for(r"the project has (\d+)")[1])
            self.sure(
                now == before + 1 == self.status()["labels"]["labelled"], f"{before} labels, then {now}"
            )
            seen.append(f"{now} labels now")

    def quit(self) -> None:
        with self.step("back home, and out"):
            for _ in range(3):
                self.terminal.press("Escape")
                time.sleep(1)
            self.home_page()
            self.terminal.press("q")
            self.shell()
            self.enter("echo left with $?")
            self.terminal.wait_for("left with 0")


def leave(*_: object) -> None:
    """End, all cleaned up; a second signal, which `timeout` sends, must not cut that short."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="fewer of everything, for CI")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder there")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, leave)
    home = Path(tempfile.mkdtemp(prefix="rlhf-lite-tour-"))
    project = home / "projects" / "my-project"
    alone(home)
    try:
        with Terminal(home / "tmux", home) as terminal:
            tour = Tour(SHORT if asked.short else LONG, terminal, project)
            tour.walk()
            print(f"\n{tour.summary}")
            return 0
    except ToolMissing as error:
        print(error, file=sys.stderr)
        return 3
    except NotSeen as error:
        print(f"\nThe tour ended here: {error}", *end_jobs(project), sep="\n", file=sys.stderr)
        return 1
    finally:
        end_jobs(project)
        if not asked.keep:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
