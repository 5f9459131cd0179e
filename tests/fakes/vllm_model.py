"""Makes a tiny model that the real vLLM loads: a random two-layer Llama of about 1 MB with its tokenizer.

usage: vllm_model.py DIR      run in the environment that scripts/vllm_env makes: needs torch and transformers
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1024
CONTEXT = 4096
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if thinking %}<|think|>\n{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(7)  # the same model in every environment
    LlamaForCausalLM(_config()).to(torch.bfloat16).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    # What it is trained on decides nothing but how many characters a token holds; this text is at hand.
    text = Path(torch.__file__).read_text(encoding="utf-8")
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )  # fmt: skip


if __name__ == "__main__":
    main()
