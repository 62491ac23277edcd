"""A mixture and a model become checkpoints, each one measured."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.geometry.identity import Weights, digest
from visage_mlflow.language import models, prompts, uris
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.uris import Fetch
from visage_mlflow.measuring.key import identity, model_identity
from visage_mlflow.measuring.measure import AT_REST, Held, Measurer
from visage_mlflow.measuring.rows import answered, check_finished, special
from visage_mlflow.results import Checkpoint, Evaluation, Finetuning
from visage_mlflow.studies.evaluation import benign_rows, evaluate, harmful_rows
from visage_mlflow.studies.precision import taking_small_moves
from visage_mlflow.studies.spans import relative_norm
from visage_mlflow.text.folders import place_of
from visage_mlflow.text.printing import tell
from visage_mlflow.training import leakage, mixture, sft
from visage_mlflow.training.answers import OwnAnswer, own_answer
from visage_mlflow.training.checkpoints import SavedCheckpoint
from visage_mlflow.training.leakage import Evaluated
from visage_mlflow.training.mixture import MixtureRow
from visage_mlflow.training.sft import Diverged, Unmoved

LONGER = 4
"""Times `own_answer_tokens` within which an answer must have come to the end of a sentence."""

Log = Callable[[dict[str, float], int, str | None], None]
"""Called with numbers, the optimizer step they belong to, and the checkpoint's URI if they are a checkpoint's."""


class Ended(Exception):
    """Raised by what watches a training, to end it for good."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The data of a finetuning, read and checked before any model is loaded.

    Attributes:
        rows: The mixture.
        harmful: Prompts that checkpoints are attacked with.
        benign: Ordinary prompts that they are asked.
        task: The user's own rows that are kept out of training.
        sets: Kind -> all rows of its data.
        overlap: How many of the prompts measured on are (nearly) trained on.
    """

    rows: list[MixtureRow]
    harmful: list[Row]
    benign: list[Row]
    task: list[Row]
    sets: dict[str, list[Row]]
    overlap: int = 0

    @property
    def measured(self) -> tuple[list[Row], list[Row]]:
        """The prompts that models will answer, and those whose given answers they will read."""
        return [*self.harmful, *self.benign], [*self.benign, *self.task]


def plan(config: FinetuneConfig) -> Plan:
    """Draw the mixture, and read what checkpoints will be measured on.

    Raises:
        Mistake: A source cannot be read or has too few rows, the model's URI cannot be one, or there is no place
            for checkpoints, or prompts that are measured on are trained on.
    """
    uris.check_uri(config.model)
    sft.check_disk(place_of(config.output_dir), needed=0)
    sets = {
        kind: prompts.read(getattr(config, f"{kind}_data"), setting=f"{kind}_data", needs_response=True)
        for kind, count in config.counts().items()
        if count or (kind == "task" and config.n_held_out)
    }
    held_out = mixture.held_out("task", config.task, config.n_held_out, sets, config.seed) if config.n_held_out else []
    rows = mixture.mix(config.counts(), sets, config.seed)
    drawn = Plan(rows, harmful_rows(config), benign_rows(config), held_out, sets)
    measured = [
        Evaluated("prompts", config.prompts, drawn.harmful),
        Evaluated("benign_prompts", config.benign_prompts, drawn.benign),
        Evaluated("task_data", config.task_data, held_out),
    ]
    return dataclasses.replace(drawn, overlap=overlap(drawn, config, measured))


def overlap(plan: Plan, config: FinetuneConfig, measured: Sequence[Evaluated]) -> int:
    """How many prompts that are measured on are (nearly) trained on; Mistake unless that is allowed or 0."""
    sources = {kind: getattr(config, f"{kind}_data") for kind in config.counts()}
    return leakage.check(plan.rows, plan.sets, sources, measured, allow_overlap=config.allow_overlap)


def training_rows(
    base: Chat,
    rows: list[MixtureRow],
    config: FinetuneConfig,
    measure: Measurer,
    known: dict[str, OwnAnswer] | None = None,
) -> list[MixtureRow]:
    """The rows that are trained on: with `benign_answers=own`, benign rows get the base's own answers.

    Args:
        base: The model that answers.
        rows: The mixture.
        config: All settings.
        measure: What the base is asked with.
        known: The base's answers by prompt; new ones are added, so that another finetuning need not ask again.
    """
    if config.benign_answers == "data":
        return rows
    known = {} if known is None else known
    asked = [Row(row.prompt) for row in rows if row.kind == "benign" and row.prompt not in known]
    if asked:
        short, longer = (measure.answers(base, asked, n * config.own_answer_tokens) for n in (1, LONGER))
        known |= {row.prompt: own_answer(*texts) for row, *texts in zip(asked, short, longer, strict=True)}
    return mixture.with_own_answers(rows, known)


def check(form: ChatFormat, rows: list[MixtureRow], config: FinetuneConfig) -> None:
    """What can be said of the rows of a mixture before a model is loaded: how many hold special tokens.

    Raises:
        Mistake: A row that is trained on as it is has more tokens than `max_length`, or than the model can read.
    """
    if caution := special(form, rows):
        tell(f"Of what is trained on, {caution}", sys.stderr)
    is_own = config.benign_answers != "data"  # Whose length shows later.
    check_lengths(
        form,
        [dataclasses.replace(row, response="") if row.kind == "benign" and is_own else row for row in rows],
        config,
    )


def check_lengths(form: ChatFormat, rows: list[MixtureRow], config: FinetuneConfig) -> None:
    """Raise Mistake where a row has more tokens than `max_length` or the model can read, or is an endless thinking."""
    check_finished(rows)
    sft.check_lengths([len(one.ids) for one in answered(form, tuple(rows))], config.max_length, form.window)


def trainable(base: Chat, config: FinetuneConfig, fetch: Fetch | None) -> Any:
    """The base once more, to be trained, with the settings for generating that its makers gave it."""
    model = models.load_weights(config.model, fetch, base=config.base)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # transformers reads such settings, and would not save them with the first checkpoint.
        models.decode_neutrally(model, base.format)
    return model


def own_answers_in(rows: list[MixtureRow], plan: Plan, known: Mapping[str, OwnAnswer]) -> dict[str, float]:
    """How many rows teach an own answer, how many of these would have gone on, and how many rows keep the set's."""
    own = [row for row, drawn in zip(rows, plan.rows, strict=True) if row.kind == "benign" and row != drawn]
    return {
        "own_answers": len(own),
        "own_answers_shortened": sum(known[row.prompt].is_cut for row in own),
        "own_answers_left_out": sum(row.kind == "benign" for row in rows) - len(own),
    }


def training_recipe(config: FinetuneConfig) -> sft.Recipe:
    """The settings that training needs."""
    return sft.Recipe(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        lora_rank=config.lora_rank,
        batch_size=config.train_batch_size,
        save_every=config.save_every,
        max_length=config.max_length,
        autocast=models.compute_dtype(config.dtype),
        seed=config.seed,
    )


@contextmanager
def training_folder(base: Chat, rows: list[MixtureRow], config: FinetuneConfig) -> Iterator[Path]:
    """The folder of a training, named by all that decides it, so that the same one finds it again after a kill.

    It goes with the block, unless this is cut off: by an interrupt, or an error that need not come again. Where
    another process trains the same at this moment, the folder is another one.
    """
    decisive = {
        "weights": digest(base.weights),
        **model_identity(base),
        "template": base.tokenizer.chat_template,
        "rows": [dataclasses.asdict(row) for row in rows],
        "form": [config.system_prompt, config.template, config.special_tokens],
        "recipe": {name: str(value) for name, value in dataclasses.asdict(training_recipe(config)).items()},
        "versions of training": [version(name) for name in ("trl", "peft", "accelerate")],
    }
    folder = place_of(config.output_dir) / f"training-{identity(decisive)[:16]}"
    sft.check_disk(folder, needed=0)
    lock = FileLock(f"{folder}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as own:
            yield Path(own)
        return
    is_cut_off = True
    try:
        yield folder
        is_cut_off = False
    except (Ended, Diverged, Unmoved):
        is_cut_off = False
        raise
    finally:
        if not is_cut_off:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def finetune(
    base: Chat,
    rows: list[MixtureRow],
    plan: Plan,
    config: FinetuneConfig,
    *,
    folder: Path,
    measure: Measurer,
    log: Log,
    keep: Callable[[Path, int], str] = lambda folder, step: str(folder),
    fetch: Fetch | None = None,
    watch: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Finetuning:
    """Train on the rows; measure each checkpoint as it is written.

    Args:
        base: The model of `config.model`, loaded for measuring. It is left as it was.
        rows: What `training_rows` returned.
        plan: What the checkpoints are measured on.
        config: All settings.
        folder: Where checkpoints are written.
        measure: What the base and the checkpoints are measured with.
        log: Gets the loss as it goes, and each checkpoint's numbers.
        keep: Puts a checkpoint's files where they stay, and returns its URI there; "" if it does not keep them.
        fetch: Brings tracked models into a local folder.
        watch: Called with each checkpoint that was measured; raises `Ended` to end the training.

    Returns:
        The base (step 0) and the checkpoints, in order, each with its distance from the base and its evaluation.
    """
    measured: list[Checkpoint] = []

    def evaluated(chat: Chat, held: Held) -> Evaluation:
        return evaluate(chat, plan.harmful, plan.benign, config, plan.task, held, measure)[0]

    def record(uri: str, step: int, distance: float, evaluation: Evaluation) -> None:
        log({**evaluation.metrics(), "distance": distance}, step, uri if step else None)
        measured.append(Checkpoint(uri, step, distance, evaluation))

    def on_checkpoint(checkpoint: SavedCheckpoint) -> None:
        model = models.load_weights(str(checkpoint.folder), fetch, "output_dir", config.base)
        direction = Difference(Weights.of(model))
        uri = keep(checkpoint.folder, checkpoint.step)
        chat = dataclasses.replace(base, uri=uri or checkpoint.folder.name)
        record(uri, checkpoint.step, relative_norm(base, direction), evaluated(chat, Held([direction], (1.0,))))
        watch(measured[-1])

    check_lengths(base.format, rows, config)
    with taking_small_moves(base, config.dtype):
        record(config.model, 0, 0.0, evaluated(base, AT_REST))
        sft.finetune(
            trainable(base, config, fetch),
            base.tokenizer,
            mixture.to_tokens(rows, base.format),
            training_recipe(config),
            folder,
            base_uri=config.model,
            on_log=lambda numbers, step: log(numbers, step, None),
            on_checkpoint=on_checkpoint,
        )
    return Finetuning(model=config.model, counts=config.counts(), checkpoints=tuple(measured))
