"""Every architecture that transformers classifies tokens with, tiny and with random weights.

A language model of the architecture is saved, so that the encoder's weights stand under a prefix
and beside another head; the encoder is loaded out of it, trained for a step, saved, loaded again.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto as auto

from hf_semicrf import SemiCRFForTokenClassification

SIZES = {
    1: "num_hidden_layers num_layers n_layer n_layers encoder_layers bos_token_id "
    "num_experts_per_tok depth",
    2: "num_attention_heads num_key_value_heads n_head n_heads num_heads encoder_attention_heads "
    "eos_token_id num_experts num_local_experts n_routed_experts",
    8: "head_dim d_kv d_head q_lora_rank kv_lora_rank xpath_unit_hidden_size",
    16: "hidden_size d_model n_embd dim emb_dim embedding_size input_embedding_size "
    "downsample_hidden_size output_dim out_hidden_size",
    32: "intermediate_size ffn_dim d_ff n_inner d_inner hidden_dim moe_intermediate_size "
    "encoder_ffn_dim image_size input_size",
    64: "vocab_size max_position_embeddings n_positions n_ctx max_seq_len num_hash_buckets",
}
BY_NAME = {name: size for size, names in SIZES.items() for name in names.split()}
SPECIAL = {
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global"], 1]]},
    "layoutlmv3": {"coordinate_size": 3, "shape_size": 2, "visual_embed": False},
    "lilt": {"hidden_size": 24},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "xmod": {"default_language": "en_XX"},
}
CARRIERS = {"qwen3_5": "Qwen3_5ForConditionalGeneration"}  # the language model reads another config
UNSUPPORTED = {
    "bros": "needs the box of every token on the page (`bbox`)",
    "layoutlmv2": "needs the package detectron2",
    "t5gemma2": "its encoder can't be loaded without its decoder",
}
if transformers.__version__.startswith("5.0."):
    UNSUPPORTED["apertus"] = "transformers 5.0 can't load it by its own class either"
KINDS = list(auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
LABELS = ["O", "B-X", "I-X"]


def tiny(kind: type[PretrainedConfig]) -> PretrainedConfig:
    """The smallest configuration of a class, and of those inside it."""
    names = inspect.signature(kind.__init__).parameters
    values = {name: size for name, size in BY_NAME.items() if name in names}
    for name, inner in kind.sub_configs.items():
        inner = type(getattr(kind(), name)) if inner is AutoConfig else inner
        if issubclass(inner, PretrainedConfig):
            values[name] = tiny(inner)
    config = kind(**values | SPECIAL.get(kind.model_type, {}))
    config.pad_token_id = 0  # some constructors do not name it
    return config


def carrier(kind: str) -> type[transformers.PreTrainedModel]:
    """The class whose checkpoints hold the encoder: a language model's, if there is one."""
    if kind in CARRIERS:
        return getattr(transformers, CARRIERS[kind])
    for task in ("MASKED_LM", "CAUSAL_LM", "PRETRAINING", "TOKEN_CLASSIFICATION"):
        name = getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").get(kind)
        if name is not None:
            return getattr(transformers, name)
    raise AssertionError(kind)


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """Names in one that the other lacks or holds with other bits."""
    return {k for k, value in one.items() if k not in other or not torch.equal(value, other[k])}


def runs_on(config: PretrainedConfig) -> tuple[str, str]:
    """The implementations of attention and of experts."""
    return config._attn_implementation, config._experts_implementation


def round_trip(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    language_model = carrier(kind)(tiny(CONFIG_MAPPING[kind]))
    language_model.save_pretrained(folder / "lm")
    stored = set()
    for file in (folder / "lm").glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            stored |= set(weights.keys())

    model = SemiCRFForTokenClassification.from_pretrained(
        folder / "lm", labels=LABELS, max_segment_length=2
    )
    loaded = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    assert not loaded.keys() >= stored  # there are a prefix or another head
    assert not different(loaded, language_model.base_model.state_dict())
    assert runs_on(model.text_encoder.config) == runs_on(language_model.base_model.config)

    model.train()
    ids = torch.arange(3, 17).reshape(2, 7)
    labels = torch.tensor([[0, 1, 2, 0, -100, 1, 0], [-100, 0, 1, 2, 2, 0, -100]])
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients.values())
    head = {f"classifier.{name}" for name, _ in model.classifier.named_parameters()}
    assert head <= {name for name, gradient in gradients.items() if gradient.any()}
    assert next(iter(gradients.values())).any()  # the embeddings: all the way through the encoder
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert different(loaded, model.text_encoder.state_dict())

    model.save_pretrained(folder / "saved")
    again = SemiCRFForTokenClassification.from_pretrained(folder / "saved")
    assert not different(model.state_dict(), again.state_dict())
    assert not different(again.state_dict(), model.state_dict())
    assert runs_on(again.text_encoder.config) == runs_on(model.text_encoder.config)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNSUPPORTED])
def test_load_train_save_and_reload(kind, tmp_path):
    round_trip(kind, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in UNSUPPORTED])
def test_what_is_listed_as_unsupported_is(kind, tmp_path):
    with pytest.raises((ImportError, NotImplementedError, ValueError)):
        round_trip(kind, tmp_path)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_experts_run_on_the_implementation_asked_for(experts, tmp_path):
    """As with attention, wrapping the encoder's configuration must not reset it."""
    carrier("mixtral")(tiny(CONFIG_MAPPING["mixtral"])).save_pretrained(tmp_path / "lm")
    for name, labels in (("lm", LABELS), ("saved", None)):
        model = SemiCRFForTokenClassification.from_pretrained(
            tmp_path / name, labels=labels, experts_implementation=experts
        )
        assert model.text_encoder.config._experts_implementation == experts
        model.save_pretrained(tmp_path / "saved")


def test_the_page_lists_what_is_unsupported():
    page = (Path(__file__).parent.parent / "docs" / "hugging_face.md").read_text()
    for kind, reason in UNSUPPORTED.items():
        assert f"| {kind} | {reason} |" in page


def test_at_least_75_architectures_are_supported():
    assert len(set(KINDS) - UNSUPPORTED.keys()) >= 75
