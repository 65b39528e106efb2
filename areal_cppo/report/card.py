"""The model card of a checkpoint: README.md, as the hub and people read it.

A card ends with a line that holds a digest of what is before it. So a card that
somebody has worked on is told from one that may be written anew.
"""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from areal_cppo.config.objectives import OBJECTIVES
from areal_cppo.folder import RunFolder, replace_file
from areal_cppo.report.headline import run_size, run_title
from areal_cppo.report.heldout import (
    HeldOut,
    accuracy_change,
    best_point,
    heldout_points,
)
from areal_cppo.report.html import shareable
from areal_cppo.report.identity import dataset_name, hub_name, is_synthetic, setting
from areal_cppo.report.page import render
from areal_cppo.report.runs import RunContents
from areal_cppo.report.settings import flatten

CARD = "README.md"
ADAPTERS = "adapter_config.json"  # what PEFT calls it
_SEAL = "<!-- areal-cppo card "
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes as --max-lora-rank
# Settings that a card tells, besides the objective's own; none is a place or a secret.
_TOLD = re.compile(
    r"seed|total_train_(steps|epochs)|train_dataset\.batch_size|"
    r"actor\.(objective|kl_ctl|eps_clip\w*|ppo_n_minibatches|dtype|lora_\w+|use_lora)|"
    r"actor\.(target_modules|reward_norm\.(mean|std)_level)|"
    r"actor\.optimizer\.(type|lr|lr_scheduler_type)|"
    r"gconfig\.(n_samples|max_new_tokens|temperature|top_p)|"
    r"rollout\.max_head_offpolicyness|data\.(instruction|(min|max)_pixels)|"
    r"reward\.(function|weights(\.\w+)?|answer_weight|format_weight)"
)
_OF_LORA = re.compile("lora|target_modules")


def write_cards(
    run: RunContents,
    checkpoint: str | Path | None = None,
    step: int | None = None,
    base_model: str | None = None,
    keep_edited: bool = False,
) -> list[Path]:
    """Write README.md into a run's checkpoints.

    Parameters
    ----------
    run
        The run.
    checkpoint
        The only one; `None`: all in the run's `checkpoints/`.
    step
        After which `checkpoint` was saved, where its folder's name doesn't tell.
    base_model
        The hub's name of the model that training began with, where the configuration
        has a folder. A card that had one keeps it.
    keep_edited
        Pass over cards that somebody has worked on; else they are refused.

    Raises
    ------
    ValueError
        In one line: no checkpoint, an unknown step, or a README.md that is not ours or
        is no longer as it was written.
    """
    if base_model is not None and not _HUB_NAME.fullmatch(base_model):
        raise ValueError(
            "--base-model: expected a name on the hub (owner/name), found "
            f"{base_model}; correct it"
        )
    cards = []
    for path in _checkpoints(run, checkpoint):
        card = path / CARD
        if may_replace(card):
            at = _step_of(path) if step is None else step
            cards.append((card, card_text(run, path, at, base_model)))
        elif not keep_edited:
            raise ValueError(
                f"{card}: expected a card as it was written, or none, found one that "
                "was changed since or is not of areal-cppo; move it away"
            )
    for card, text in cards:
        replace_file(card, text)
    return [card for card, _ in cards]


def card_text(
    run: RunContents, checkpoint: Path, step: int, base_model: str | None = None
) -> str:
    """The card of the checkpoint after a step."""
    config, points = run.config, heldout_points(run)
    source = setting(config, "actor.path") or ""
    base = base_model or _known_base(checkpoint / CARD) or hub_name(source)
    before, here = (
        next((point for point in points if point.step == at), None) for at in (0, step)
    )
    lora = _lora(checkpoint)
    name = f"{(base or Path(source).name or 'model').split('/')[-1]}-{run.objective}"
    parts = ("train_dataset.path", "valid_dataset.path")
    data = filter(None, (dataset_name(setting(config, part)) for part in parts))
    head = ModelCardData(
        base_model=base,
        datasets=list(dict.fromkeys(data)) or None,
        library_name="peft" if lora else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["areal-cppo", "reinforcement-learning", *filter(None, [run.objective])],
        model_name=f"{name}-step-{step}",
        eval_results=_results(run, here) if here else None,
    )
    text = render(
        "card.md.j2",
        head=head.to_yaml(),
        name=head.model_name,
        run=run,
        title=run_title(run),
        size=run_size(run),
        step=step,
        base=base,
        source=Path(source).name,
        lora=lora,
        largest=next((r for r in _RANKS if lora and r >= (lora["rank"] or r)), "RANK"),
        points=list(dict.fromkeys(filter(None, (before, here)))),
        change=accuracy_change([before, here]) if before and here and step else None,
        chosen=len(points) > 2 and best_point(points) == here,
        evaluated=_evaluated(config),
        line=next((line for line in run.evaluations if line["step"] == step), {}),
        settings=_settings(run),
        instruction=_instruction(config),
        quoted=repr(_instruction(config)),
        longest=setting(config, "gconfig.max_new_tokens") or 1024,
        pixels=None if is_synthetic(config) else setting(config, "data.max_pixels"),
    )
    text = shareable(text, run.folder)
    return f"{text}{_SEAL}{_digest(text)} -->\n"


def may_replace(card: Path) -> bool:
    """Whether there is no card, one as it was written, or PEFT's empty form."""
    if not card.is_file():
        return True
    text = card.read_text(encoding="utf-8", errors="replace")
    body, sealed, end = text.rpartition(_SEAL)
    if sealed:
        return end.strip() == f"{_digest(body)} -->"
    form = ModelCard.from_template(ModelCardData()).text.strip()
    before, found, rest = text.partition(form)
    head = re.fullmatch(r"---\n.*?\n---\s*", before, re.DOTALL)
    versions = re.fullmatch(r"(### Framework versions\s+- PEFT \S+)?", rest.strip())
    return bool(found and head and versions)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _checkpoints(run: RunContents, only: str | Path | None) -> list[Path]:
    folder = RunFolder(run.folder).checkpoints
    paths = sorted(folder.glob("step-*")) if only is None else [Path(only)]
    found = [
        path
        for path in paths
        if any((path / name).is_file() for name in ("config.json", ADAPTERS))
        and (only is not None or path.name.removeprefix("step-").isdigit())
    ]
    if only is not None and not found:
        raise ValueError(
            f"--checkpoint: expected a folder with config.json or {ADAPTERS}, found "
            f"{'neither in' if paths[0].is_dir() else 'no folder at'} {only}; correct "
            "it"
        )
    return found


def _known_base(card: Path) -> str | None:
    """The base model that an older card of ours names."""
    if not card.is_file() or _SEAL not in (text := card.read_text(encoding="utf-8")):
        return None
    return ModelCard(text, ignore_metadata_errors=True).data.base_model


def _step_of(path: Path) -> int:
    number = path.resolve().name.removeprefix("step-")
    if not number.isdigit():
        raise ValueError(
            f"--step: expected the step after which {path} was saved, found none in "
            "its name; give it"
        )
    return int(number)


def _instruction(config: dict[str, Any]) -> str:
    """What stands behind each question."""
    return "" if is_synthetic(config) else setting(config, "data.instruction") or ""


def _evaluated(config: dict[str, Any]) -> str:
    """On what accuracy was measured."""
    if is_synthetic(config):
        return f"problems of the synthetic task {setting(config, 'data.source')}"
    path, split = (setting(config, f"valid_dataset.{key}") for key in ("path", "split"))
    if not path:
        return "problems"
    if known := dataset_name(path):
        return f"{known}, split {split}"
    return "data of the user's own" + ("" if Path(path).suffix else f" ({split})")


def _lora(checkpoint: Path) -> dict[str, Any] | None:
    """Rank of adapters, if it is noted; `None` for a whole model."""
    file = checkpoint / ADAPTERS
    if not file.is_file():
        return None
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        noted = None
    rank = noted.get("r") if isinstance(noted, dict) else None
    return {"rank": rank if isinstance(rank, int) else None}


def _results(run: RunContents, here: HeldOut) -> list[EvalResult]:
    path = dataset_name(setting(run.config, "valid_dataset.path"))
    split = setting(run.config, "valid_dataset.split") if path else None
    kind = path or setting(run.config, "data.source") or "held-out"
    return [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=kind,
            dataset_name=kind.split("/")[-1],
            dataset_split=split,
            metric_type="accuracy",
            metric_name="greedy accuracy",
            metric_value=round(here.accuracy, 4),
        )
    ]


def _settings(run: RunContents) -> str:
    """Those that a card tells, as YAML: JSON is."""
    known = OBJECTIVES.get(run.objective)
    own = f"actor.{known.settings}." if known and known.settings else None
    told = {
        name: value
        for name, value in flatten(run.config).items()
        if _TOLD.fullmatch(name) or (own and name.startswith(own))
    }
    if told.get("reward.function"):
        told["reward.function"] = Path(told["reward.function"]).name
        told |= {"reward.answer_weight": None, "reward.format_weight": None}
    skipped = "data." if is_synthetic(run.config) else None
    return "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in told.items()
        if value not in (None, "", [], {})
        and not (skipped and name.startswith(skipped))
        and (told.get("actor.use_lora") or not _OF_LORA.search(name))
    )
