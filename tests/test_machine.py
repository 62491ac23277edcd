"""What a machine does is measured; what a model asks of it is counted by hand."""

import pytest
import torch
from torch import nn

from visage_mlflow.benchmark import machine
from visage_mlflow.config import LandscapeConfig


class Decoder(nn.Module):
    """A body of 3 × 4 weights and a head of 5 × 3, as a decoder calls them: logits of the last token only."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(3, 5, bias=False)
        self.dtype = torch.float32

    def get_output_embeddings(self):
        return self.head

    def forward(self, tokens):
        hidden = self.body(torch.zeros(*tokens.shape, 4))
        return self.head(hidden[:, -1:])


def test_the_head_counts_once_a_row():
    """2 rows of 7 tokens: 2 * (7 * 2 * 12 + 2 * 15) = 396; 3 rows of 1 token: 3 * (24 + 30) = 162."""
    model = Decoder()

    def run():
        model(torch.zeros(2, 7, dtype=torch.long))
        model(torch.zeros(3, 1, dtype=torch.long))

    assert machine.gflop(model, run) * 1e9 == pytest.approx(396 + 162)
    assert not model.body._forward_hooks and not model.head._forward_hooks


def test_the_matrix_rate_is_a_positive_number_and_leaves_the_model_alone():
    model = Decoder()
    assert machine.matrix_rate(model, 8) > 0
    assert "forward" not in model.body.__dict__


def test_peak_memory_grows_with_what_is_held():
    before = machine.peak_memory()
    held = torch.ones(32 * 2**20)  # 128 MiB
    assert machine.peak_memory() >= max(before, held.nbytes)


def test_a_landscape_in_a_process_of_its_own_takes_more_memory_than_the_models_weights(aligned_folder, sets):
    prompts = str(sets / "harmful_eval.jsonl")
    config = LandscapeConfig(model=str(aligned_folder), prompts=prompts, n_prompts=2, max_new_tokens=2, store="off")
    assert machine.peak_memory_ratio(config) > 1


def test_a_process_that_fails_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="peak memory ended early"):
        machine.peak_memory_ratio(LandscapeConfig(model=str(tmp_path)))
