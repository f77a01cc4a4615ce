"""The same training with sentence-transformers' own trainer."""

from pathlib import Path
from typing import Any

import torch

from gnomon.train import LossSettings, Recipe
from gnomon.train.data.mixture import compute_weights

TOGETHER = 16
"""Texts that are read at a time in the loss of a teacher."""


def with_sentence_transformers(recipe: Recipe, target: Path) -> None:
    """The same model, data, batch, steps, learning rate and seed through its trainer, in its own order."""
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    rates = {"hidden_dropout_prob": recipe.dropout, "attention_probs_dropout_prob": recipe.attention_dropout}
    dropout = {name: share for name, share in rates.items() if share is not None}
    model = SentenceTransformer(recipe.model, device="cpu", config_kwargs=dropout)
    if recipe.max_seq_length:
        model.max_seq_length = recipe.max_seq_length
    first = {name: value.clone() for name, value in model.state_dict().items()}
    assert recipe.freeze in ((), ("layers.",))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not recipe.freeze or ".encoder.layer." not in name)
    data = {}
    for source in recipe.sources:
        rows = load_dataset("json", data_files=[*source.path], split="train")
        data[" + ".join(Path(path).name for path in source.path)] = rows.select_columns([source.query, source.positive])
    assert recipe.max_steps is not None
    # it draws by size: as many of each as the mixture would see
    shares = compute_weights(recipe.sources, [len(rows) for rows in data.values()], recipe.mixture)
    data = {
        name: rows.shuffle(seed=recipe.seed).select(
            range(min(len(rows), round(share * recipe.max_steps * recipe.batch_size)))
        )
        for (name, rows), share in zip(data.items(), shares, strict=True)
    }
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(target.parent / "hf"),
            max_steps=recipe.max_steps,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            warmup_steps=round(recipe.warmup_ratio * recipe.max_steps),
            lr_scheduler_type=recipe.lr_scheduler_type,
            adam_beta2=recipe.adam_beta2,
            max_grad_norm=recipe.max_grad_norm,
            seed=recipe.seed,
            bf16=recipe.bf16,
            batch_sampler="no_duplicates",
            multi_dataset_batch_sampler="proportional",
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        loss=loss_of(recipe.loss, model),
    )
    trainer.train()
    share = recipe.base_weight
    model.load_state_dict({name: value.lerp(first[name], share) for name, value in model.state_dict().items()})
    model.save(str(target))


def loss_of(settings: LossSettings, model: Any) -> torch.nn.Module:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    if settings.name == "info_nce":
        return MultipleNegativesRankingLoss(model, scale=settings.scale or 20.0)
    return Taught(model, SentenceTransformer(settings.teacher, device="cpu"), settings)


class Taught(torch.nn.Module):
    """Losses of a teacher, from their formulae. The teacher reads the tokens that the model reads.

    Both read texts of about one length together, so that hardly any padding is read: a third of the time.
    """

    def __init__(self, model: Any, teacher: Any, settings: LossSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self._teacher = [teacher.eval()]  # in a list: nothing of it is trained

    def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
        texts = [*sentence_features]
        with torch.no_grad():
            theirs = [by_length(self._teacher[0], each) for each in texts]
        ours = [by_length(self.model, each) for each in texts]
        if self.settings.name == "cosine_distillation":
            assert self.settings.distillation_target == "query"
            return torch.cat([1 - torch.cosine_similarity(each, theirs[0]) for each in ours]).mean()
        assert self.settings.name == "kl_and_contrast"
        scale = self.settings.scale or 100.0
        scores = torch.cosine_similarity(ours[0][:, None], ours[1], dim=-1) * scale
        taught = torch.cosine_similarity(theirs[0][:, None], theirs[1], dim=-1)
        taught = taught / self.settings.teacher_temperature if self.settings.teacher_temperature else taught * scale
        kl = torch.stack([kl_of_rows(taught, scores), kl_of_rows(taught.T, scores.T)]).mean()
        return kl + self.settings.alpha * torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def by_length(model: torch.nn.Module, texts: dict[str, Any]) -> torch.Tensor:
    """Embeddings of texts, in their order, from batches of TOGETHER, each truncated to its longest text."""
    lengths = texts["attention_mask"].sum(1)
    order = lengths.argsort()
    parts = []
    for rows in order.split(TOGETHER):
        longest = int(lengths[rows].max())
        part = {name: value[rows, :longest] if torch.is_tensor(value) else value for name, value in texts.items()}
        parts.append(model(part)["sentence_embedding"])
    return torch.cat(parts)[order.argsort()]


def kl_of_rows(taught: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    wanted = taught.log_softmax(1)
    return (wanted.exp() * (wanted - scores.log_softmax(1))).sum(1).mean()
