"""``dspark train target|drafter``, ``dspark calibrate``, ``dspark eval``: the demo pair, again.

All of them work in one folder and resume from what they find there:
corpus/ -> target-base/ -> target/ -> prompts.jsonl, features/ -> drafter/ with sts.json; the
figures go to target/eval.json and drafter/eval.json.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    help="Train a small target, then its drafter, from text found on any machine with Python.",
    rich_markup_mode=None,
)

Work = Annotated[Path, typer.Option(help="Folder of everything; a stopped run resumes there.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Override a setting of a stage."),
]
_WORK = Path("training")

S = TypeVar("S")


@app.command("target")
def target(work: Work = _WORK, set_: Set = None) -> None:
    """Train the target (hours): corpus, tokenizer, model, then a polish against repetition.

    Stages for --set: target, polish, prompts.
    """
    from dspark.training.evaluation import PromptSettings, cut_prompts
    from dspark.training.repetition import PolishSettings, polish_target
    from dspark.training.target import TargetSettings, train_target

    base, final = work / "target-base", work / "target"
    with_target = {"work": work, "out": base}
    train_target(_settings(TargetSettings, "target", with_target, set_))
    with_polish = {"work": work, "target": base, "out": final}
    polish_target(_settings(PolishSettings, "polish", with_polish, set_))
    held_out, prompts = work / "corpus" / "heldout.jsonl", work / "prompts.jsonl"
    with_prompts = {"target": final, "held_out": held_out, "out": prompts}
    cut_prompts(_settings(PromptSettings, "prompts", with_prompts, set_))
    print(f"dspark: the target is at {final}; next: dspark train drafter --work {work}")


@app.command("drafter")
def drafter(work: Work = _WORK, set_: Set = None) -> None:
    """Train the drafter on text that the target generates (an hour or more).

    Stages for --set: features, drafter.
    """
    from dspark.training.drafter import DrafterSettings, train_drafter
    from dspark.training.features import FeatureSettings, make_features

    pair = {"work": work, "target": _made(work / "target", "dspark train target")}
    with_features = {**pair, "out": work / "features"}
    make_features(_settings(FeatureSettings, "features", with_features, set_))
    with_drafter = {**pair, "features": work / "features", "out": work / "drafter"}
    train_drafter(_settings(DrafterSettings, "drafter", with_drafter, set_))
    print(f"dspark: the drafter is at {work / 'drafter'}; next: dspark calibrate --work {work}")


def calibrate(
    work: Work = _WORK,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw reliability diagrams, before and after, into this file."),
    ] = None,
    set_: Set = None,
) -> None:
    """Fit the confidences on held-out rounds, every sampling mode apart: drafter/sts.json.

    Stage for --set: calibrate.
    """
    from dspark.bench.plot import require_plotting
    from dspark.training.evaluation import CalibrationSettings
    from dspark.training.evaluation import calibrate as fit

    if plot is not None:
        require_plotting()
    given = {
        **_pair(work),
        "held_out": _made(work / "corpus" / "heldout.jsonl", "dspark train target"),
        "prompts": _made(work / "prompts.jsonl", "dspark train target"),
        "out": work / "drafter" / "sts.json",
        "plot": plot,
    }
    fit(_settings(CalibrationSettings, "calibrate", given, set_))


def evaluate(work: Work = _WORK, set_: Set = None) -> None:
    """Judge the pair on held-out text: bits per byte, accepted length, calibration error.

    Stage for --set: eval.
    """
    from dspark.training.evaluation import EvaluationSettings
    from dspark.training.evaluation import evaluate as judge

    pair = _pair(work)
    shared = {
        "target": pair["target"],
        "prompts": _made(work / "prompts.jsonl", "dspark train target"),
    }
    held_out = _made(work / "corpus" / "heldout.jsonl", "dspark train target")
    alone = {**shared, "held_out": held_out, "out": work / "target" / "eval.json"}
    together = {**shared, "drafter": pair["drafter"], "out": work / "drafter" / "eval.json"}
    figures = judge(_settings(EvaluationSettings, "eval", alone, set_))
    figures |= judge(_settings(EvaluationSettings, "eval", together, set_))
    _print_figures(figures)


def _pair(work: Path) -> dict[str, Any]:
    return {
        "target": _made(work / "target", "dspark train target"),
        "drafter": _made(work / "drafter", "dspark train drafter"),
    }


def _made(path: Path, by: str) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist: run `{by} --work {path.parents[0]}` first")
    return path


def _settings(
    kind: type[S], stage: str, given: Mapping[str, Any], overrides: Sequence[str] | None
) -> S:
    """Build a stage's settings from ``given`` and the overrides that name the stage.

    Raises:
        ValueError: An override is malformed or names no field of the stage.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = dict(given)
    for override in overrides or ():
        key, found, text = override.partition("=")
        named, _, name = key.partition(".")
        if not found or not name:
            raise ValueError(f"--set {override!r}: expected STAGE.FIELD=VALUE")
        if named != stage:
            continue
        if name not in fields:
            raise ValueError(f"--set {override!r}: {stage} knows {', '.join(sorted(fields))}")
        value = yaml.safe_load(text)
        if fields[name].type in (Path, "Path", Path | None):
            value = None if value is None else Path(str(value))
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _print_figures(figures: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(
        "domain", "bits/byte", "repeated 8-grams",
        "tau greedy", "tau T=1 coupled", "tau T=1 rejection",
    )  # fmt: skip
    for domain in ("code", "prose", "arithmetic"):
        table.add_row(
            domain,
            *(
                _cell(figures.get(kind, {}).get(domain))
                for kind in ("bits_per_byte", "repeated_8grams")
            ),
            *(
                _cell(figures.get(mode, {}).get(domain, {}).get("tau"))
                for mode in ("greedy", "coupled", "rejection")
            ),
        )
    console.print(table)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"
