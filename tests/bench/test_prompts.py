from pathlib import Path

import pytest

from dspark.bench.prompts import BUILTIN, load_prompts


@pytest.fixture
def three_domains(tmp_path: Path) -> str:
    lines = [
        f'{{"domain": "{domain}", "prompt": "{domain}{number}"}}'
        for domain in ("code", "prose", "sums")
        for number in range(4)
    ]
    return write(tmp_path, "\n".join(lines))


def write(folder: Path, text: str) -> str:
    file = folder / "prompts.jsonl"
    file.write_text(text)
    return str(file)


def test_any_first_few_prompts_hold_every_domain(three_domains: str) -> None:
    domains = [prompt.domain for prompt in load_prompts(three_domains, None, seed=0)]
    assert domains == ["code", "prose", "sums"] * 4


def test_equal_seeds_give_equal_orders(three_domains: str) -> None:
    first, again, other = (load_prompts(three_domains, None, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_domain_can_be_chosen(three_domains: str) -> None:
    assert {p.domain for p in load_prompts(three_domains, "prose", seed=0)} == {"prose"}


def test_an_unknown_domain_is_answered_with_the_known_ones(three_domains: str) -> None:
    with pytest.raises(ValueError, match="'poetry', only of code, prose, sums"):
        load_prompts(three_domains, "poetry", seed=0)


def test_of_a_conversation_the_first_turn_is_the_prompt(tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path, '{"turns": ["one", "two"]}\n\n'), None, seed=0)
    assert (prompt.domain, prompt.text) == ("", "one")


def test_the_packaged_prompts_have_three_domains() -> None:
    prompts = load_prompts(BUILTIN, None, seed=0)
    assert {prompt.domain for prompt in prompts} == {"arithmetic", "code", "prose"}


@pytest.mark.parametrize("line", ["no json", "3", "{}", '{"turns": []}', '{"prompt": ""}'])
def test_a_line_without_a_prompt_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts\.jsonl: line 2 is no"):
        load_prompts(write(tmp_path, '{"prompt": "a"}\n' + line), None, seed=0)


def test_a_file_without_prompts_or_none_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        load_prompts(write(tmp_path, "\n"), None, seed=0)
    with pytest.raises(ValueError, match="No such file"):
        load_prompts(str(tmp_path / "absent"), None, seed=0)
