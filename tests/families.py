"""Models of many families with random weights: two layers, 16 numbers wide, made in memory."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

TEXT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {**TEXT, "head_dim": 4}
PICTURES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SOUNDS = {
    "hidden_size": 16,
    "num_blocks": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "nemo_conv_channels": 8,
    "ext_pw_out_channel": 16,
    "depthwise_seperable_out_channel": 16,
}
OCR = {
    "hidden_size": 16,
    "output_channels": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "mlp_dim": 24,
    "global_attn_indexes": [0],
    "window_size": 2,
}
QWEN_VL = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16}
TURNS = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0}
WRAPPERS = {
    "gemma3": {"text_config": GEMMA, "vision_config": PICTURES, "mm_tokens_per_image": 1, "image_token_index": 31},
    "got_ocr2": {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": OCR},
    "fuyu": {**TEXT, "text_config": {**TEXT, "model_type": "persimmon"}, "patch_size": 4},
    "phi4_multimodal": {**TEXT, "vision_config": {**PICTURES, "crop_size": 16}, "audio_config": SOUNDS},
    "llava": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**PICTURES, "model_type": "clip_vision_model"},
    },
    "qwen2_5_vl": {"text_config": {**TEXT, "rope_parameters": TURNS}, "vision_config": {**QWEN_VL, "patch_size": 8}},
}
"""Models with towers for pictures or sound beside their text decoder, or within it."""


def made(kind, **more):
    """A causal language model of a kind, as `model_type` names it."""
    return _seeded(AutoModelForCausalLM, kind, {**TEXT, **more})


def wrapper(kind, **more):
    """A model that reads more than text."""
    auto = AutoModelForImageTextToText if kind in ("llava", "qwen2_5_vl") else AutoModelForCausalLM
    return _seeded(auto, kind, {**WRAPPERS[kind], **more})


def _seeded(auto, kind, settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(AutoConfig.for_model(kind, **settings)).eval()
        for parameter in model.parameters():  # Biases begin as zeros, norms as ones: neither would show a move.
            torch.nn.init.normal_(parameter)
    return model
