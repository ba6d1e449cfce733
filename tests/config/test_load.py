from pathlib import Path

import pytest

from dspark.config.load import load_system


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "system.yaml"
    path.write_text("pools:\n  drafter:\n    replicas: 2\n")
    return path


def test_what_the_file_does_not_say_is_a_default(file: Path) -> None:
    settings = load_system(file)
    assert settings.pools.drafter.replicas == 2
    assert settings.pools.verifier.replicas == 1


def test_an_override_wins_over_the_file(file: Path) -> None:
    settings = load_system(file, ["pools.drafter.replicas=0", "model.name=mine"])
    assert settings.pools.drafter.replicas == 0
    assert settings.model.name == "mine"


def test_no_file_means_defaults() -> None:
    assert load_system(None).gateway.port == 8000


def test_a_misspelt_key_is_named_with_the_nearest_known_one(file: Path) -> None:
    file.write_text("pools:\n  drafter:\n    replica: 2\n")
    with pytest.raises(ValueError, match="replica") as caught:
        load_system(file)
    assert (
        str(caught.value) == f"{file}: pools.drafter.replica: unknown key; did you mean 'replicas'?"
    )


def test_a_misspelt_key_of_an_optional_part_is_named_before_what_is_missing_for_it(
    file: Path,
) -> None:
    with pytest.raises(ValueError, match=r"endpoint\.tls\.certficate: .* 'certificate'\?"):
        load_system(file, ["endpoint.tls.certficate=x.pem"])


def test_a_strange_key_gets_the_list_of_known_ones(file: Path) -> None:
    file.write_text("zebra: 1\n")
    with pytest.raises(ValueError, match="zebra: unknown key; known here: model, endpoint, pools"):
        load_system(file)


def test_a_wrong_type_is_named_with_its_value(file: Path) -> None:
    with pytest.raises(ValueError, match=r"with --set: gateway\.port: .*got 'soon'"):
        load_system(file, ["gateway.port=soon"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gateway.port", "expected KEY.PATH=VALUE"),
        ("=1", "expected KEY.PATH=VALUE"),
        ("pools.drafter.replicas.deep=1", "'replicas' holds a value"),
    ],
)
def test_a_malformed_override_says_so(file: Path, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_system(file, [override])


def test_a_missing_file_points_to_one_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file; configs/demo\.yaml"):
        load_system(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1\n", "line"), ("- 1\n", "expected keys and values, found list")],
)
def test_a_file_that_is_not_settings_says_so_in_one_line(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_system(file)
    assert "\n" not in str(caught.value)


def test_an_empty_file_means_defaults(file: Path) -> None:
    file.write_text("# nothing yet\n")
    assert load_system(file) == load_system(None)
