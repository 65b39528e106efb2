"""Real data as an experiment."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import AutoProcessor, ProcessorMixin

from areal_cppo.config.experiment import CPPOConfig, workflow_kwargs
from areal_cppo.data.dataset import Note, ProblemDataset
from areal_cppo.errors import UserError
from areal_cppo.folder import SHARED
from areal_cppo.rewards.own import REWARD_FN

VALIDATION_SEED = 0  # the same problems whatever the run's seed


class ProblemTask:
    """What the controller asks of a task (`areal_cppo.run.observers.Task`).

    Held-out accuracy is measured by `areal-cppo eval`, on checkpoints: a real model is
    never loaded into the controller.

    Parameters
    ----------
    config
        The experiment.
    note
        Told in a line what was found in the data.

    Raises
    ------
    UserError
        A setting that this task doesn't have is used.
    """

    def __init__(
        self,
        config: CPPOConfig,
        note: Note = logging.getLogger("ProblemTask").info,
    ):
        self.config = config
        self.note = note
        self._valid: ProblemDataset | None = None  # read once
        self.workflow_kwargs = workflow_kwargs(
            config, config.reward.function or REWARD_FN
        )

    def train_dataset(self) -> ProblemDataset:
        """The problems to train on, in an order drawn by `config.seed`.

        Those of them that are measured on too are told of.

        Raises
        ------
        UserError
            As `ProblemDataset`; or there are fewer problems than a batch takes, of
            which AReaL would wait for the first for ever.
        """
        dataset = self._dataset("train_dataset", self.config.seed)
        batch_size = self.config.train_dataset.batch_size
        if len(dataset) < batch_size:
            raise UserError(
                f"train_dataset.batch_size: expected at most the {len(dataset):,} "
                f"usable problems, found {batch_size}; make it smaller"
            )
        self._compare(dataset)
        return dataset

    def _compare(self, training: ProblemDataset) -> None:
        """Tell which problems of the validation data are trained on."""
        try:
            validation = self.valid_dataset()
        except UserError as error:  # training goes without
            self.note(f"warning: not compared with train_dataset: {error}")
            return
        shared = validation.shared_with(training) if validation else ""
        if shared:
            self.note(
                f"warning: valid_dataset {SHARED} {shared}; accuracy "
                "on them says nothing of new problems: choose splits that share none, "
                "as train[:90%] and train[90%:], or take these rows out of one"
            )

    def valid_dataset(self) -> ProblemDataset | None:
        """The problems to measure on; `None` where the configuration names none."""
        if self.config.valid_dataset is None:
            return None
        if self._valid is None:
            self._valid = self._dataset("valid_dataset", VALIDATION_SEED)
        return self._valid

    def evaluate(self, checkpoint: Path) -> None:
        """Nothing: see `areal-cppo eval`."""

    def _dataset(self, setting: str, seed: int) -> ProblemDataset:
        config = self.config
        train = setting == "train_dataset"
        block = config.train_dataset if train else config.valid_dataset
        unused = {
            "max_length": block.max_length,
            "dataset_kwargs": block.dataset_kwargs,
        }
        for name, found in unused.items():
            if found:
                raise UserError(
                    f"{setting}.{name}: expected none, found {found!r}; leave it out: "
                    "the block data says how problems are made (data.max_prompt_tokens)"
                )
        return ProblemDataset(
            self._processor(),
            self.config.data,
            path=block.path,
            split=block.split,
            seed=seed,
            shuffle=block.shuffle,
            sees=self.config.reward.sees,
            setting=setting,
            note=self.note,
        )

    def _processor(self) -> ProcessorMixin:
        path = self.config.tokenizer_path
        processor = AutoProcessor.from_pretrained(path)
        if not isinstance(processor, ProcessorMixin):  # of text models, a tokenizer
            raise UserError(
                f"tokenizer_path: expected a vision-language model, found {path} "
                "without an image processor; name a Qwen-VL model"
            )
        return processor
