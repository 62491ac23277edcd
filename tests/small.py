"""Models of random weights, as small as their kinds allow, for what only depends on how weights are stored."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

N_ROWS = 40
IDS = torch.arange(2, 14)[None]


def save_small(folder, *, tied=True, hidden_size=16, seed=0, dtype=torch.float32):
    """A Llama without a tokenizer, saved to a folder."""
    config = LlamaConfig(
        vocab_size=N_ROWS,
        hidden_size=hidden_size,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model):
    """Of a few tokens, in evaluation mode: (1, tokens, vocabulary)."""
    return model.eval()(input_ids=IDS).logits
