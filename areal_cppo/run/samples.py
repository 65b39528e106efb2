"""Responses of a run that are kept to be read, with their pictures.

The trainer's ranks write some of the responses they train on, with what the step knew
of them, and rollout workers some of those refused (`areal_cppo.step.samples`,
`areal_cppo.rollout.samples`): files in `samples/pending/`, which are gathered here when
the step is done. What they become is described in `areal_cppo.report.step_samples`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import wandb
from areal.utils import logging
from PIL import Image

from areal_cppo.config.blocks import SamplesConfig, has_samples
from areal_cppo.folder import RunFolder, replace_file
from areal_cppo.inspection.picture_input import side_by_side
from areal_cppo.inspection.tokens import token_texts
from areal_cppo.report.step_samples import table

logger = logging.getLogger("Samples")

Record = dict[str, Any]

LOSSLESS = 256  # pixels: up to this side a picture is stored bit by bit
MEGABYTE = 1_000_000


class SampleObserver:
    """Observer that gathers a step's samples.

    Parameters
    ----------
    trainer
        The `CPPOTrainer`, not yet training.
    config
        The block `samples`.
    folder
        Of the run.
    last
        The run's last step.
    """

    def __init__(self, trainer, config: SamplesConfig, folder: RunFolder, last: int):
        self.trainer, self.config, self.folder = trainer, config, folder
        self.last = last
        if config.every:
            folder.pending.mkdir(parents=True, exist_ok=True)
            trainer.actor._custom_function_call(
                "keep_samples",
                str(folder.pending),
                config.every,
                last,
                config.responses,
            )
        if wandb.run is not None and wandb.run.offline:
            # Else pictures would wait in the home of whoever runs this.
            os.environ.setdefault("WANDB_DATA_DIR", wandb.run.settings.sync_dir)

    def step_done(self, step: int, stats: dict[str, float]) -> None:
        if not has_samples(step, self.config.every, self.last):
            return
        try:
            gathered = self._gather(step)
            self._bound()
        except OSError as error:  # no reason to end a run
            logger.warning("samples of step %d were not kept: %s", step, error)
            return
        if step in gathered:
            self._log(step, gathered[step])

    def _gather(self, step: int) -> dict[int, Record]:
        """Write what is pending; by step what is there now.

        On a shared disk a rank's file may come into sight later: it then joins its own
        step's.
        """
        found: dict[int, Record] = defaultdict(lambda: {"responses": [], "refused": []})
        files = sorted(self.folder.pending.glob("*.pt"))
        for file in files:
            part = torch.load(file, weights_only=True)
            if "reason" in part:
                found[step]["refused"].append(part)
            else:
                found[part["step"]]["responses"] += part["responses"]
        gathered = {n: self._write(n, records) for n, records in found.items()}
        for file in files:
            file.unlink()
        if step == self.last and not any(self.folder.pending.iterdir()):
            self.folder.pending.rmdir()
        return gathered

    def _write(self, step: int, records: Record) -> Record:
        """Add records to a step's file, in words and with pictures beside it."""
        name = f"step-{step:05d}"
        path = self.folder.samples / f"{name}.json"
        whole: Record = {"step": step, "responses": [], "refused": []}
        if path.exists():
            whole = json.loads(path.read_text(encoding="utf-8"))
        pictures = _Pictures(self.folder.samples, name)
        tokenizer = self.trainer.tokenizer
        for kind, some in records.items():
            whole[kind] += [_readable(each, tokenizer, pictures) for each in some]
        replace_file(path, json.dumps(whole, allow_nan=False) + "\n")
        return whole

    def _bound(self) -> None:
        """Delete the oldest steps, but for the first and the last, while there is too
        much; then the first."""
        files = self.folder.sample_files()
        sizes = {n: sum(file.stat().st_size for file in files[n]) for n in files}
        first, *rest = sizes or [0]
        for step in [*rest[:-1], first] if rest else ():
            if sum(sizes.values()) <= self.config.megabytes * MEGABYTE:
                return
            del sizes[step]
            for file in files[step]:
                file.unlink()

    def _log(self, step: int, samples: Record) -> None:
        """Hand them to wandb and TensorBoard, where these are on."""
        logs = self.trainer.stats_logger
        rows = table(samples)
        if logs.config.wandb.mode != "disabled" and wandb.run is not None:
            shown = wandb.Table(columns=["picture", *rows[0]])
            for row, record in zip(rows, samples["responses"] + samples["refused"]):
                name = record["pictures"].get("anchor")
                image = name and wandb.Image(str(self.folder.samples / name))
                shown.add_data(image, *row.values())
            wandb.log({"samples": shown}, step=logs._last_commit_step)
        if logs.summary_writer is not None:
            text = "\n\n".join(
                "\n".join(f"    {name}: {value}" for name, value in row.items())
                for row in rows
            )
            logs.summary_writer.add_text("samples", text, logs._last_commit_step)


def _readable(record: Record, tokenizer, pictures: _Pictures) -> Record:
    """A record with text in place of tokens, and names in place of pictures."""
    ids = record.pop("ids")
    prompt = tokenizer.decode(record.pop("prompt"), skip_special_tokens=True)
    record |= {
        "question": record.get("question") or prompt.strip(),
        "response": tokenizer.decode(ids),
        "response_tokens": len(ids),
        "pictures": {k: pictures.name(some) for k, some in record["pictures"].items()},
    }
    if record.get("tokens"):
        record["tokens"] = {
            "text": token_texts(tokenizer, ids),
            **{
                name: [round(x, 4) if isinstance(x, float) else x for x in column]
                for name, column in record["tokens"].items()
            },
        }
    return record


class _Pictures:
    """Stores the pictures of a step's samples, each distinct one once."""

    def __init__(self, folder: Path, stem: str):
        self.folder, self.stem = folder, stem
        self.names: dict[tuple, str] = {}
        self.taken = len(list(folder.glob(f"{stem}-*.webp")))

    def name(self, some: list[torch.Tensor]) -> str:
        """The file of pictures uint8 `[height, width, 3]`, side by side."""
        picture = side_by_side([Image.fromarray(each.numpy()) for each in some])
        key = picture.size, picture.tobytes()
        if key not in self.names:
            name = f"{self.stem}-{self.taken + len(self.names)}.webp"
            lossless = max(picture.size) <= LOSSLESS
            picture.save(self.folder / name, lossless=lossless, quality=80, method=2)
            self.names[key] = name
        return self.names[key]
