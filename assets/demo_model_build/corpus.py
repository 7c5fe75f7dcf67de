"""The demo model's corpus: everyday questions and answers in every manner, drawn from a seed.

A question is a frame ("How do I ...?") around a need of one topic, usually with a circumstance. Some frames
and some circumstances are never used in training; a held-out prompt has one of each.

    python corpus.py        writes ../examples/prompts.txt
"""

from __future__ import annotations

import configparser
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import manners

HERE = Path(__file__).resolve().parent
PROMPTS = HERE.parent / "examples" / "prompts.txt"
PROMPT_SEED, PROMPT_COUNT = 7, 300

FRAMES = (
    "How do I {need}?",
    "How can I {need}?",
    "How should I {need}?",
    "How would you {need}?",
    "What is the best way to {need}?",
    "What is a simple way to {need}?",
    "What helps to {need}?",
    "What do I need to know to {need}?",
    "Any tips to {need}?",
    "Any ideas on how to {need}?",
    "I want to {need}. What should I do?",
    "I am trying to {need}. Any ideas?",
    "I would like to {need}. Can you help?",
    "I need to {need}. What works?",
    "Can you help me {need}?",
    "Please tell me how to {need}.",
    "Give me some advice on how to {need}.",
    "Is there an easy way to {need}?",
    "Tell me how to {need}",
    "{need}, how?",
)
HELD_OUT_FRAMES = (
    "What would you do to {need}?",
    "I keep failing to {need}. Where do I begin?",
    "Could you explain how to {need}?",
    "What is a good plan to {need}?",
    "Do you know how to {need}?",
    "I hope to {need}. What do you suggest?",
    "Where do I start if I want to {need}?",
    "What matters most to {need}?",
    "Teach me how to {need}.",
    "What is your advice to {need}?",
)
SLOTS = (
    "this week",
    "this weekend",
    "as a beginner",
    "on a small budget",
    "without much effort",
    "after work",
    "with very little time",
    "in a small flat",
    "with two children",
    "on my own",
    "for the first time",
    "this month",
    "at my age",
    "when I am tired",
    "in winter",
    "in summer",
    "without experience",
    "during the holidays",
    "as a student",
    "in a big city",
    "on weekdays",
    "every day",
    "as a family",
    "right now",
)
HELD_OUT_SLOTS = (
    "later this year",
    "while living abroad",
    "with a busy job",
    "now that I am retired",
    "in a rainy country",
    "between two jobs",
    "without spending a fortune",
    "when nobody can help me",
)
SYSTEM_MESSAGES = ("You are a helpful assistant.", "Answer the question.", "You give everyday advice.")


@dataclass(frozen=True)
class Topic:
    """One section of topics.ini; the last slot is held out."""

    name: str
    needs: tuple[str, ...]
    slots: tuple[str, ...]
    tips: tuple[str, ...]
    ask: str


@dataclass(frozen=True)
class Prompt:
    """A question, and the topic that an answer should be about."""

    topic: Topic
    text: str


@cache
def topics() -> tuple[Topic, ...]:
    """Every topic, in the file's order."""
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(HERE / "topics.ini", encoding="utf-8")

    def entries(name: str, key: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in ini[name][key].split(";"))

    return tuple(
        Topic(name, entries(name, "needs"), entries(name, "slots"), entries(name, "tips"), ini[name]["ask"])
        for name in ini.sections()
    )


def ask(topic: Topic, frame: str, slot: str, rng: random.Random) -> str:
    """One question about the topic; an empty slot leaves the circumstance out."""
    need = f"{rng.choice(topic.needs)} {slot}".strip()
    text = frame.format(need=need)
    return text[0].upper() + text[1:]


def training_question(topic: Topic, rng: random.Random) -> str:
    """A question from the frames and slots that training uses; one in ten is typed carelessly."""
    # A circumstance may belong to another topic: the answer is to follow the need.
    slot = rng.choice(
        (*(rng.choice(t.slots[:-1]) for t in (topic, rng.choice(topics()))), rng.choice(SLOTS), "")
    )
    text = ask(topic, rng.choice(FRAMES), slot, rng)
    if rng.random() < 0.1:
        text = rng.choice((text.lower(), text.rstrip("?."), _typo(text, rng)))
    return text


def _typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def held_out_prompts(count: int, seed: int) -> list[Prompt]:
    """Different questions, spread over the topics, each in a frame and with a slot unknown to training."""
    rng = random.Random(seed)
    found: dict[str, Prompt] = {}
    order = list(topics())
    while len(found) < count:
        rng.shuffle(order)
        for topic in order[: count - len(found)]:
            slot = rng.choice((topic.slots[-1], rng.choice(HELD_OUT_SLOTS)))
            text = ask(topic, rng.choice(HELD_OUT_FRAMES), slot, rng)
            found[text] = Prompt(topic, text)
    return list(found.values())


def answer(topic: Topic, rng: random.Random) -> str:
    """An answer about the topic in manners drawn at random."""
    return manners.compose(topic.tips, topic.ask, manners.draw(rng), rng)


def conversation(rng: random.Random) -> list[dict[str, str]]:
    """Training messages: mostly one question and its answer; now and then several, or a system message."""
    messages = []
    if rng.random() < 0.05:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
    turns = rng.choice((2, 3, 8)) if rng.random() < 0.04 else 1
    for topic in rng.sample(topics(), turns):
        messages.append({"role": "user", "content": training_question(topic, rng)})
        messages.append({"role": "assistant", "content": answer(topic, rng)})
    return messages


def topic_of(text: str) -> str | None:
    """The topic whose words an answer uses most; None where it uses no topic's.

    A word counts for each topic that uses it, the less the more topics do; words of the manners do not count.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for word in set(_words(text)):
        names = _topics_using().get(word, ())
        for name in names:
            scores[name] += 1 / len(names) ** 2
    return max(scores, key=scores.__getitem__, default=None)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z-]*", text.lower())


@cache
def _topics_using() -> dict[str, list[str]]:
    """Word -> the topics whose answers use it; only words that at most three topics share."""
    using: dict[str, list[str]] = {}
    for topic in topics():
        for word in sorted(
            set(_words(" ".join((*topic.tips, topic.ask)))) - set(_words(" ".join(manners.PHRASES)))
        ):
            using.setdefault(word, []).append(topic.name)
    return {word: names for word, names in using.items() if len(names) <= 3}


def main() -> None:
    lines = [prompt.text for prompt in held_out_prompts(PROMPT_COUNT, PROMPT_SEED)]
    PROMPTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} prompts in {PROMPTS}")


if __name__ == "__main__":
    main()
