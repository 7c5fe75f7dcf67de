"""Preference data as it is found in the wild goes in; what is broken is named with its file, line and reason."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite import formats, records
from rlhf_lite.errors import DataError, NotEnoughLabels, UserError
from rlhf_lite.formats import Refused, Row, export_labels, import_file, read_prompts, read_rows
from rlhf_lite.labels import MUCH_BETTER, LabelStore, Message, Preference, Rating

FIXTURE = Path(__file__).parent.parent / "fixtures" / "hh-small.jsonl"


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def bot(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
MEANING = Preference([user("Hi")], "Hello!", "What?")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore.open(tmp_path / "labels.db") as opened:
        yield opened


def written(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def read(path: Path) -> list[Any]:
    """What each row means, or why it was refused."""
    return [row.content if isinstance(row, Row) else row.why for row in read_rows(path)]


def meaning(tmp_path: Path, row: object) -> Any:
    (only,) = read(written(tmp_path / "row.jsonl", row))
    return only


# Formats, each as its documentation or dataset card shows it

TURNS = [user("Hi"), bot("Hello."), user("And now?")]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And now?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(GOOD, MEANING, id="TRL explicit"),
        pytest.param(
            {"prompt": TURNS, "chosen": [bot("Lunch.")], "rejected": [bot("Nothing.")]},
            Preference(TURNS, "Lunch.", "Nothing."),
            id="TRL conversational",
        ),
        pytest.param(
            {"chosen": [*TURNS, bot("Lunch.")], "rejected": [*TURNS, bot("Nothing.")]},
            Preference(TURNS, "Lunch.", "Nothing."),
            id="TRL conversational implicit",
        ),
        pytest.param(
            {"chosen": "The sky is grey.", "rejected": "The sky is green."},
            Preference([user("The sky is")], "grey.", "green."),
            id="TRL implicit",
        ),
        pytest.param(
            {"chosen": HH + " Lunch.", "rejected": HH + " Nothing.\n\nSorry."},
            Preference(TURNS, "Lunch.", "Nothing.\n\nSorry."),
            id="Anthropic HH",
        ),
        pytest.param(
            {"prompt": HH, "chosen": " Lunch.", "rejected": " Nothing."},
            Preference(TURNS, "Lunch.", "Nothing."),
            id="HH with the prompt apart",
        ),
        pytest.param(
            {"chosen": HH + " One:\n\nAssistant:  two.", "rejected": HH + " No."},
            Preference(TURNS, "One:\n\ntwo.", "No."),
            id="HH, the assistant speaks twice",
        ),
        pytest.param(
            {"chosen": HH + " ", "rejected": HH + " Insult."},
            Preference(TURNS, "", "Insult."),
            id="HH, silence was preferred",
        ),
        pytest.param(
            {
                "prompt": "Hi",
                "prompt_id": "f0e37e9f",
                "chosen": [user("Hi"), bot("Hello!")],
                "rejected": [user("Hi"), bot("What?")],
                "messages": [user("Hi"), bot("Hello!")],
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            },
            MEANING,
            id="UltraFeedback-binarized",
        ),
        pytest.param(
            {
                "prompt": "Hi",
                "response_0": "What?",
                "response_1": "Hello!",
                "is_response_0_safe": True,
                "better_response_id": 1,
                "safer_response_id": 0,
            },
            MEANING,
            id="PKU-SafeRLHF goes by the better one",
        ),
        pytest.param(
            {"prompt": "Hi", "response_0": "Hello!", "response_1": "What?", "safer_response_id": 0},
            MEANING,
            id="PKU-SafeRLHF with the safer one alone",
        ),
        pytest.param(
            {"prompt": "Hi", "response": "What?", "category": {"privacy": False}, "is_safe": False},
            Rating([user("Hi")], "What?", False),
            id="BeaverTails",
        ),
        pytest.param(
            {"prompt": "Hi", "completion": "Hello!", "label": True},
            Rating([user("Hi")], "Hello!", True),
            id="KTO",
        ),
        pytest.param(
            {"prompt": TURNS, "completion": [bot("Hello!")], "label": False},
            Rating(TURNS, "Hello!", False),
            id="KTO conversational",
        ),
        pytest.param(
            {"prompt": "Hi", "completion": "Hello!"}, Rating([user("Hi")], "Hello!", None), id="an example"
        ),
        pytest.param({**GOOD, "margin": 2.5}, Preference([user("Hi")], "Hello!", "What?", 2.5), id="margin"),
        pytest.param(
            {**GOOD, "response_0": None, "label": None}, MEANING, id="columns of other sources are null"
        ),
    ],
)
def test_a_row_of_each_format_is_understood(tmp_path: Path, row: object, expected: object) -> None:
    assert meaning(tmp_path, row) == expected


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('{"prompt": "Hi", "chosen": }', "not JSON: Expecting value at column 28"),
        ('{"prompt": "Hi", "chos', "not JSON: Unterminated string starting at column 18"),
        ('{"prompt": "Hi"} {}', "not JSON: Extra data at column 18"),
        ("[" * 200_000, "not JSON that can be read"),
        ("1" * 10_000, "not JSON that can be read"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ({"question": "Hi", "answer": "Hello"}, "no known format has just these columns: answer, question"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": None}, "these columns: chosen, prompt"),
        ({}, "these columns: none"),
        ({**GOOD, "rejected": "Hello!"}, "chosen and rejected are the same text"),
        ({**GOOD, "rejected": " Hello!\n"}, "chosen and rejected are the same text"),
        ({**GOOD, "prompt": " \n"}, "empty prompt"),
        ({**GOOD, "prompt": []}, "empty prompt"),
        ({**GOOD, "prompt": 7}, "prompt is neither text nor a list of messages"),
        ({**GOOD, "chosen": 7}, "must both be text or both be lists"),
        ({**GOOD, "prompt": [user("Hi"), bot("Hello")]}, "does not end with a question by the user"),
        ({**GOOD, "prompt": [{"role": "tool", "content": "x"}]}, "the role 'tool'"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "a message without role and content"),
        ({**GOOD, "prompt": [{"role": "user", "content": ["x"]}]}, "prompt is list, not text"),
        ({**GOOD, "chosen": "a\0b"}, "chosen holds a NUL character"),
        ({**GOOD, "prompt": "a\0b"}, "prompt holds a NUL character"),
        ({**GOOD, "chosen": "half \ud83d"}, "chosen is not valid Unicode"),
        ({**GOOD, "margin": -1}, "margin is -1"),
        ('{"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": NaN}', "margin is nan"),
        (
            {"chosen": HH + " Lunch.", "rejected": HH.replace("now", "then") + " No."},
            "prompts differ between",
        ),
        (
            {"chosen": HH + " Lunch.", "rejected": HH + " No.\n\nHuman: Why?"},
            "rejected does not end with an answer",
        ),
        ({"chosen": "Yes.", "rejected": "No."}, "no start in common"),
        (
            {"prompt": "Bye", "chosen": [user("Hi"), bot("a")], "rejected": [user("Hi"), bot("b")]},
            "begin with",
        ),
        (
            {"prompt": "Hi", "response_0": "a", "response_1": "b"},
            "safer_response_id is None, neither 0 nor 1",
        ),
        ({"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 2}, "is 2, neither"),
        ({"prompt": "Hi", "completion": "a", "label": "good"}, "label is 'good', neither true nor false"),
        ({"prompt": "Hi", "completion": " "}, "empty completion"),
    ],
)
def test_a_bad_row_is_refused_for_a_reason_a_person_understands(
    tmp_path: Path, row: object, why: str
) -> None:
    refusal = meaning(tmp_path, row)
    assert isinstance(refusal, str)
    assert why in refusal


# Files


def test_good_rows_go_in_and_bad_ones_are_named_with_file_and_line(store: LabelStore, tmp_path: Path) -> None:
    other = {**GOOD, "prompt": "Bye"}
    path = written(tmp_path / "mixed.jsonl", GOOD, "", "{oops", {**GOOD, "chosen": "What?"}, other)
    report = import_file(store, path)
    assert (report.imported, report.duplicates) == (2, 0)
    assert [(r.file, r.line) for r in report.refused] == [(str(path), 3), (str(path), 4)]
    assert store.preferences() == [MEANING, Preference([user("Bye")], "Hello!", "What?")]
    assert store.unlabelled() == []


def test_the_same_file_twice_adds_nothing(store: LabelStore) -> None:
    first = import_file(store, FIXTURE)
    assert (first.imported, first.duplicates, first.refused) == (12, 0, [])
    before = (store.counts(), store.preferences())
    again = import_file(store, FIXTURE)
    assert (again.imported, again.duplicates, again.refused) == (0, 12, [])
    assert (store.counts(), store.preferences()) == before
    assert 0 < store.counts().a < 12  # on which side the chosen one is shown says nothing


def test_ratings_twice_add_nothing_either(store: LabelStore, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "response": "Yo", "is_safe": safe} for safe in (True, False, True)]
    path = written(tmp_path / "beaver.jsonl", *rows)
    assert [(r.imported, r.duplicates) for r in (import_file(store, path), import_file(store, path))] == [
        (2, 1),
        (0, 3),
    ]


def test_an_import_never_overrules_a_label_that_is_there(store: LabelStore, tmp_path: Path) -> None:
    store.add_prompts([[user("Hi")], [user("Bye")]])
    for prompt in store.prompts():
        store.add_pair(prompt.id, "What?", "Hello!", origin="0001-generate")
    mine, _ = store.unlabelled()
    store.label(mine.id, "a" if mine.a == "What?" else "b", judge="person:ada")
    report = import_file(store, written(tmp_path / "x.jsonl", GOOD, {**GOOD, "prompt": "Bye"}))
    assert report.imported == 1  # the pair nobody had judged takes the label of the file
    assert [(r.line, r.why) for r in report.refused] == [
        (1, "this pair is labelled the other way round already")
    ]
    assert [p.chosen for p in store.preferences()] == ["What?", "Hello!"]


def test_a_row_that_contradicts_an_earlier_one_is_refused_each_time(
    store: LabelStore, tmp_path: Path
) -> None:
    path = written(tmp_path / "x.jsonl", GOOD, {"prompt": "Hi", "chosen": "What?", "rejected": "Hello!"})
    for imported in (1, 0):
        report = import_file(store, path)
        assert (report.imported, [r.line for r in report.refused]) == (imported, [2])
    assert store.preferences() == [MEANING]


LINE = json.dumps({**GOOD, "prompt": "¿Qué?"}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"\xef\xbb\xbf" + LINE.encode() + b"\n", ["¿Qué?"], id="byte order mark"),
        pytest.param(LINE.encode() + b"\r\n" + LINE.encode() + b"\r\n", ["¿Qué?"] * 2, id="CRLF"),
        pytest.param(LINE.encode(), ["¿Qué?"], id="no newline at the end"),
        pytest.param(
            LINE.encode("latin-1") + b"\n" + LINE.encode(),
            ["not UTF-8: byte 13 of the line", "¿Qué?"],
            id="latin-1",
        ),
        pytest.param(
            LINE.encode() + b"\n" + b"\0" * 64 + b"\n", ["¿Qué?", "the line holds NUL bytes"], id="NUL bytes"
        ),
        pytest.param(
            json.dumps({**GOOD, "prompt": "one\u2028two"}, ensure_ascii=False).encode(),
            ["one\u2028two"],
            id="U+2028",
        ),
    ],
)
def test_text_files_as_editors_and_crashes_leave_them(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    found = read(tmp_path / "x.jsonl")
    assert [f if isinstance(f, str) else f.prompt[0]["content"] for f in found] == expected


def test_a_huge_line_is_refused_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 2**20)
    path = written(tmp_path / "x.jsonl", {**GOOD, "prompt": "x" * 3_000_000}, GOOD)
    assert read(path) == ["the line is longer than 1 MiB", MEANING]


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", *({**GOOD, "prompt": f"{i} " + "x" * 10_000} for i in range(1000)))
    tracemalloc.start()
    rows = list(islice(read_rows(path), 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 3
    assert peak < path.stat().st_size / 10


@pytest.mark.parametrize("ending", [".jsonl.gz", ".JSONL.GZ", ".jsonl"])
def test_gzip_is_known_by_its_bytes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(gzip.compress(f"{json.dumps(GOOD)}\n{LINE}\n".encode()))
    assert len(read(path)) == 2
    assert read(path)[0] == MEANING


def test_the_rows_before_a_break_in_a_gzip_file_go_in(store: LabelStore, tmp_path: Path) -> None:
    noise = (
        hashlib.sha512(str(i).encode()).hexdigest() * 2 for i in range(1000)
    )  # or it compresses to nothing
    whole = gzip.compress("".join(json.dumps({**GOOD, "prompt": text}) + "\n" for text in noise).encode())
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    report = import_file(store, path)
    assert report.imported > 200
    (refused,) = report.refused
    assert refused.line == report.imported + 1
    assert "the file is damaged" in refused.why


def test_json_is_a_list_of_rows_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([GOOD, {"no": 1}, {**GOOD, "prompt": "Bye"}], indent=2), encoding="utf-8-sig")
    rows = list(read_rows(path))
    assert [(type(r), r.line) for r in rows] == [(Row, 2), (Refused, 7), (Row, 10)]


def test_a_json_list_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    whole = json.dumps([GOOD, {**GOOD, "prompt": "Bye"}], indent=1)
    path = tmp_path / "x.json"
    path.write_text(whole[:-30], encoding="utf-8")
    assert read(path)[0] == MEANING
    assert "nothing from here on can be read" in read(path)[1]
    path.write_text(whole[:-1], encoding="utf-8")
    assert read(path)[2:] == ["the list breaks off here"]


def test_json_lines_under_the_name_json(tmp_path: Path) -> None:
    assert read(written(tmp_path / "x.json", GOOD, "{oops"))[0] == MEANING


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("x.jsonl", b"", DataError, "holds no rows"),
        ("x.jsonl", json.dumps(GOOD).encode("utf-16"), DataError, "UTF-16"),
        ("x.json", json.dumps(GOOD).encode("utf-16"), DataError, "UTF-16"),
        ("x.json", b'[{"prompt": "\xff"}]', DataError, "not UTF-8"),
        ("x.jsonl.gz", b'{"prompt": 1}', DataError, "not gzip"),
        ("x.parquet", b"PAR1 and then nothing of the kind PAR1", DataError, "cannot be read"),
        ("x.parquet", b"", DataError, "cannot be read"),
        ("x.csv", b"prompt,chosen,rejected", UserError, "cannot read"),
        ("absent.jsonl", None, UserError, "there is no"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_an_error(
    store: LabelStore, tmp_path: Path, name: str, content: bytes | None, error: type[DataError], says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says) as caught:
        import_file(store, tmp_path / name)
    assert name in caught.value.message


def test_a_folder_that_is_no_data_set_is_an_error(store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set"):
        import_file(store, tmp_path)


# Tables

TABLE = [
    {"prompt": TURNS, "chosen": [bot("Lunch.")], "rejected": [bot("Nothing.")]},
    {"prompt": [user("Hi")], "chosen": [bot("Hello!")], "rejected": [bot("Hello!")]},
    {"prompt": [user("Hi")], "chosen": [bot("Hello!")], "rejected": [bot("What?")]},
]
IN_TABLE = [Preference(TURNS, "Lunch.", "Nothing."), "chosen and rejected are the same text", MEANING]


def test_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.Table.from_pylist(TABLE), path, row_group_size=1)
    assert read(path) == IN_TABLE
    assert [row.line for row in read_rows(path)] == [1, 2, 3]
    invalid = arrow.array([b"Hi", b"\xff"]).cast(arrow.string(), safe=False)
    answers = arrow.array(["Hello!"] * 2), arrow.array(["What?"] * 2)
    parquet.write_table(arrow.table([invalid, *answers], ["prompt", "chosen", "rejected"]), path)
    assert read(path) == [MEANING, "it holds text that is not UTF-8"]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(TABLE)
    rows.select([2, 1]).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == [MEANING, IN_TABLE[1]]
    datasets.DatasetDict(train=rows, test=rows.select([2])).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "two") == [*IN_TABLE, MEANING]
    refused = [row for row in read_rows(tmp_path / "two") if isinstance(row, Refused)]
    assert [(Path(r.file).parent.name, r.line) for r in refused] == [("train", 2)]


def test_an_arrow_file_cut_short_gives_the_rows_before(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([GOOD] * 3000).save_to_disk(tmp_path / "x")
    (part,) = (tmp_path / "x").glob("*.arrow")
    part.write_bytes(part.read_bytes()[:-5000])
    found = read(tmp_path / "x")
    assert found[:-1] == [MEANING] * (len(found) - 1)
    assert len(found) > 1000
    assert "damaged" in found[-1]


def test_neither_torch_nor_arrow_is_loaded_before_it_is_needed() -> None:
    code = "import sys, rlhf_lite.formats; print({'torch', 'pyarrow', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Prompts


def test_prompts_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffWhat is 2+2?\r\n\r\n# not a comment \n\t\n¿Qué?".encode())
    assert read_prompts(path) == ([[user("What is 2+2?")], [user("# not a comment")], [user("¿Qué?")]], [])


def test_prompts_as_json_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl", {"prompt": "Hi"}, {"prompt": [system("Rhyme."), user("Go")]}, {"text": "x"}, "{"
    )
    prompts, refused = read_prompts(path)
    assert prompts == [[user("Hi")], [system("Rhyme."), user("Go")]]
    assert [(r.file, r.line) for r in refused] == [(str(path), 3), (str(path), 4)]
    assert refused[0].why == "prompt is missing"


# Export

LABELLED = [
    MEANING,
    Preference([user("Hi")], "Hello!", "\n  an answer with space around it "),
    Preference(TURNS, "Lunch.", ""),
    Preference([system("Be brief."), *TURNS], " begins with a space", "two\n\nparagraphs \U0001f680"),
]


def labelled(store: LabelStore, preferences: list[Preference]) -> None:
    for preference in preferences:
        store.add_preference(preference, origin="import:x")


def known(items: list[Any]) -> list[str]:
    return sorted(map(repr, items))


@pytest.mark.parametrize("format", ["explicit", "conversational", "implicit"])
@pytest.mark.parametrize("margin", [0.0, MUCH_BETTER])
def test_what_is_exported_comes_back_the_same(
    store: LabelStore, tmp_path: Path, format: formats.Format, margin: float
) -> None:
    much = Preference([user("Really?")], "Yes.", "No.", margin)
    labelled(store, [*LABELLED, much])
    assert export_labels(store, tmp_path / "out.jsonl", format) == 5
    with LabelStore.open(tmp_path / "again.db", seed=1) as again:
        assert import_file(again, tmp_path / "out.jsonl").imported == 5
        assert known(again.preferences()) == known([*LABELLED, much])


def test_kto_export_has_each_answer_once_and_comes_back_the_same(store: LabelStore, tmp_path: Path) -> None:
    labelled(store, LABELLED)
    store.add_rating(TURNS, "Go away.", False, "import:y")
    store.add_rating(TURNS, "an example without a mark", None, "import:y")
    assert export_labels(store, tmp_path / "out.jsonl", "kto") == 8  # Hello! is the chosen one of two pairs
    with LabelStore.open(tmp_path / "again.db") as again:
        import_file(again, tmp_path / "out.jsonl")
        assert known(again.ratings()) == known(store.ratings())


@pytest.mark.parametrize(
    ("format", "columns"),
    [
        ("explicit", {"prompt": str, "chosen": str, "rejected": str, "margin": float}),
        ("conversational", {"prompt": list, "chosen": list, "rejected": list, "margin": float}),
        ("implicit", {"chosen": list, "rejected": list, "margin": float}),
        ("kto", {"prompt": list, "completion": list, "label": bool}),
    ],
)
def test_every_row_has_the_columns_that_trl_documents(
    store: LabelStore, tmp_path: Path, format: formats.Format, columns: dict[str, type]
) -> None:
    labelled(store, [*LABELLED, Preference([user("Really?")], "Yes.", "No.", MUCH_BETTER)])
    export_labels(store, tmp_path / "out.jsonl", format)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert all({name: type(value) for name, value in row.items()} == columns for row in rows)


def test_without_a_much_better_there_is_no_margin_column(store: LabelStore, tmp_path: Path) -> None:
    labelled(store, LABELLED)
    export_labels(store, tmp_path / "out.jsonl")
    assert "margin" not in (tmp_path / "out.jsonl").read_text("utf-8")


def test_datasets_loads_an_export(store: LabelStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    labelled(store, LABELLED)
    export_labels(store, tmp_path / "out.jsonl")
    rows = datasets.Dataset.from_json(str(tmp_path / "out.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert rows[2]["prompt"] == TURNS
    assert rows[2]["chosen"] == [bot("Lunch.")]


def test_a_prompt_that_plain_text_cannot_hold_is_not_written_wrongly(
    store: LabelStore, tmp_path: Path
) -> None:
    quoting = [user("They said:\n\nHuman: hello"), bot("Who did?"), user("They.")]
    labelled(store, [Preference(quoting, "Oh.", "No.")])
    with pytest.raises(UserError, match="plain text") as caught:
        export_labels(store, tmp_path / "out.jsonl", "explicit")
    assert "conversational" in caught.value.hint
    assert export_labels(store, tmp_path / "out.jsonl", "implicit") == 1


def test_an_export_replaces_nothing_unasked_and_leaves_nothing_half_written(
    store: LabelStore, tmp_path: Path
) -> None:
    out = tmp_path / "exports" / "out.jsonl"
    with pytest.raises(NotEnoughLabels):
        export_labels(store, out)
    labelled(store, LABELLED)
    with pytest.raises(UserError, match="cannot write"):
        export_labels(store, out)  # its folder is not there
    out.parent.mkdir()
    out.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        export_labels(store, out)
    assert out.read_text() == "precious"
    assert export_labels(store, out, overwrite=True) == 4
    assert [file.name for file in out.parent.iterdir()] == ["out.jsonl"]
    with pytest.raises(UserError, match="cannot write"):
        export_labels(store, tmp_path / "out.parquet")
