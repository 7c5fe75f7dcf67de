"""The generator of the demo model's corpus: what the trained model's figures rest on."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[2] / "assets"
sys.path[:0] = [str(ASSETS / "demo_model_build"), str(ASSETS / "examples")]

import corpus  # noqa: E402  (plain scripts, made importable above)
import judge  # noqa: E402
import manners  # noqa: E402


def composed(count: int, seed: int = 3) -> list[tuple[corpus.Topic, dict[str, bool], str]]:
    rng = random.Random(seed)
    drawn = [(rng.choice(corpus.topics()), manners.draw(rng)) for _ in range(count)]
    return [(topic, wanted, manners.compose(topic.tips, topic.ask, wanted, rng)) for topic, wanted in drawn]


def test_the_same_seed_writes_the_same_corpus() -> None:
    first, again, other = (
        [corpus.conversation(rng) for _ in range(50)] for rng in map(random.Random, (4, 4, 5))
    )
    assert first == again != other


def test_every_manner_can_be_told_from_any_composed_answer() -> None:
    for _, wanted, text in composed(3000):
        for pole, opposite in manners.POLES.items():
            assert (judge.has(pole, text), judge.has(opposite, text)) == (wanted[pole], not wanted[pole]), (
                text
            )


def test_no_manner_tells_anything_about_another() -> None:
    answers = [text for _, _, text in composed(4000)]
    seen = {pole: [judge.has(pole, text) for text in answers] for pole in manners.POLES}
    for one, two in itertools.combinations(seen, 2):
        both = sum(a and b for a, b in zip(seen[one], seen[two], strict=True)) / len(answers)
        apart = sum(seen[one]) / len(answers) * sum(seen[two]) / len(answers)
        assert both == pytest.approx(apart, abs=0.03), (one, two)


def test_tips_and_questions_back_hold_no_cue_of_a_manner() -> None:
    for topic in corpus.topics():
        for text in (*topic.tips, topic.ask):
            assert not [cue for cue in judge.CUES if judge.has(cue, text)], text
            assert not {"and", ","} & {*text.split(), *text}, text


def test_an_answer_is_on_its_own_topic_and_on_no_other() -> None:
    drawn = composed(3000)
    right = [corpus.topic_of(text) == topic.name for topic, _, text in drawn]
    wrong = [
        corpus.topic_of(text) == asked.name
        for (asked, _, _), (answered, _, text) in itertools.pairwise(drawn)
        if asked != answered
    ]
    assert sum(right) / len(right) > 0.99
    assert sum(wrong) / len(wrong) < 0.01


def test_words_of_no_topic_are_on_no_topic() -> None:
    assert corpus.topic_of("Perhaps you gotta.") is None


def test_held_out_prompts_are_unknown_to_training_in_phrasing_and_circumstance() -> None:
    rng = random.Random(8)
    trained = {
        message["content"].lower()
        for _ in range(20_000)
        for message in corpus.conversation(rng)
        if message["role"] == "user"
    }
    openings = {frame.split("{need}")[0].lower() for frame in corpus.HELD_OUT_FRAMES}
    slots = [
        slot.lower() for slot in (*corpus.HELD_OUT_SLOTS, *(topic.slots[-1] for topic in corpus.topics()))
    ]
    assert len(trained) > 5_000
    assert not [text for text in trained if text.startswith(tuple(openings))]
    assert not [text for text in trained if any(f" {slot}" in text for slot in slots)]
    for prompt in corpus.held_out_prompts(400, seed=1):
        text = prompt.text.lower()
        assert text.startswith(tuple(openings))
        assert any(slot in text for slot in slots), text


def test_held_out_prompts_differ_and_spread_over_the_topics() -> None:
    prompts = corpus.held_out_prompts(120, seed=2)
    assert len({prompt.text for prompt in prompts}) == 120
    per_topic = [sum(p.topic == topic for p in prompts) for topic in corpus.topics()]
    assert min(per_topic) >= 1


def test_the_example_prompts_are_what_the_generator_writes() -> None:
    written = corpus.PROMPTS.read_text(encoding="utf-8").splitlines()
    assert written == [p.text for p in corpus.held_out_prompts(corpus.PROMPT_COUNT, corpus.PROMPT_SEED)]
