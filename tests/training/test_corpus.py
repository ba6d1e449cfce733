import random
import re

from dspark.training.arithmetic import worked_page, worked_problem
from dspark.training.corpus import (
    CorpusSettings,
    Document,
    cut_source,
    drop_near_duplicates,
    read_documents,
    source_documents,
    split,
    strip_licence,
    write_documents,
)

SOURCE = '''# Copyright the authors.
# Licensed under some terms.

# An ordinary comment.
"""Tools for shelves."""


def reach(shelf, height):
    """Return the highest book on the shelf that a reader of this height can reach."""
    books = [book for book in shelf if book.height < height]
    return max(books, key=lambda book: book.height)
'''


def code(text, group="module:a", question=None):
    return Document(domain="code", group=group, text=text, question=question)


def test_worked_answers_are_right_and_the_same_seed_draws_the_same():
    rng = random.Random(1)
    for _ in range(300):
        question, answer = worked_problem(rng)
        added = re.fullmatch(r"(?:What is|Compute) (\d+) \+ (\d+)[?.]", question)
        if added:
            assert answer.endswith(f"The answer is {int(added[1]) + int(added[2])}.")
        for left, right, total in re.findall(r"(\d+) \* (\d+) = (\d+)", answer):
            assert int(left) * int(right) == int(total)
    assert worked_page(random.Random(5), 3) == worked_page(random.Random(5), 3)


def test_licence_blocks_go_and_other_comments_stay():
    text = strip_licence(SOURCE)
    assert "Copyright" not in text
    assert "An ordinary comment" in text


def test_a_source_file_becomes_code_reference_and_chat_of_one_group(tmp_path):
    path = tmp_path / "shelves.py"
    path.write_text(SOURCE)
    documents = [
        document
        for seed in range(8)
        for document in source_documents(path, "shelves", CorpusSettings(seed=seed))
    ]
    assert {document.group for document in documents} == {"module:shelves"}
    forms = {(document.domain, document.question is not None) for document in documents}
    assert forms == {("code", False), ("code", True), ("prose", False), ("prose", True)}


def test_long_sources_are_cut_at_top_level_definitions_and_nothing_is_lost():
    source = "".join(f"def f{i}():\n    return {i} + {i} + {i} + {i}\n\n\n" for i in range(60))
    pieces = cut_source(source, 500)
    assert len(pieces) > 3
    assert all(piece.startswith("def ") for piece in pieces)
    assert sum(piece.count("def ") for piece in pieces) == 60


def test_documents_that_mostly_repeat_known_lines_are_dropped():
    lines = "\n".join(f"a long enough line of words {chr(97 + i)}" for i in range(10))
    other = lines.replace("words", "other words")
    kept = drop_near_duplicates([code(lines), code(lines + "\nx"), code(other)])
    assert [document.text for document in kept] == [lines, other]


def test_a_module_and_its_tests_fall_on_the_same_side_of_the_split():
    documents = [
        code(f"text {i} of module {name}", group=f"module:{prefix}{name}")
        for i, name in enumerate(chr(97 + i) * 5 for i in range(26))
        for prefix in ("", "test.test_")
    ]
    train, held = split(documents, CorpusSettings(held_out_fraction=0.3))
    names = [{d.group.rsplit(":")[-1].removeprefix("test.test_") for d in s} for s in (train, held)]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]


def test_held_out_documents_that_quote_training_are_dropped():
    shared = "\n".join(f"this line is found in both places {chr(97 + i)}" for i in range(4))
    documents = [code(shared, group=f"module:m{i}") for i in range(40)]
    train, held = split(documents, CorpusSettings(held_out_fraction=0.5))
    assert train
    assert not held


def test_documents_survive_being_written(tmp_path):
    documents = [code("text\nwith lines"), code("answer", question="why?")]
    write_documents(tmp_path / "docs.jsonl", documents)
    assert read_documents(tmp_path / "docs.jsonl") == documents
