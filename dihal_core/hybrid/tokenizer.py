"""The backbone's tokenizer as a hybrid needs it: every text starts with the separator, padding stands on the left."""

from typing import TYPE_CHECKING, Any

from dihal_core.backbones.tokenizers import pad_id, separator_id
from dihal_core.config import BackboneSettings
from dihal_core.hybrid.assemble import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tokens_of(tokenizer: "PreTrainedTokenizerFast", backbone: BackboneSettings) -> Tokens:
    """Return the ids of separator, padding and ends of text."""
    separator = separator_id(tokenizer, backbone)
    end = tokenizer.eos_token_id
    ends = (separator, int(end)) if isinstance(end, int) and end != separator else (separator,)
    return Tokens(separator, pad_id(tokenizer, backbone), ends)


def hybrid_tokenizer(tokenizer: "PreTrainedTokenizerFast", backbone: BackboneSettings) -> "PreTrainedTokenizerFast":
    """Return a copy that puts the separator in front of every text and nothing else around it.

    An instruct model's own start token is not the pretraining separator (and one of its own would double
    it), so whatever the tokenizer adds by itself is replaced.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tokens = tokens_of(tokenizer, backbone)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    name = backbone.separator_token
    core.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A $B", special_tokens=[(name, tokens.separator)]
    )
    options: dict[str, Any] = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=name,
        eos_token=tokenizer.eos_token or name,
        pad_token=tokenizer.convert_ids_to_tokens(tokens.pad),
        padding_side="left",
        truncation_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )
