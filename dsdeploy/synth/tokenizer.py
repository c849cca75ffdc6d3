"""A small byte-level BPE tokenizer for synthetic checkpoints, as the files that loaders expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dsdeploy.errors import UsageError
from dsdeploy.resources import read_template

BEGIN, END, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
SPECIAL = (BEGIN, END, PAD, "<｜User｜>", "<｜Assistant｜>")


def tokenizer_files(vocab_size: int) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json; ids: specials, 256 bytes, merges while they fit."""
    alphabet = _byte_alphabet()
    if vocab_size < len(SPECIAL) + len(alphabet):
        raise UsageError(
            f"A vocabulary of {vocab_size} does not hold the 256 bytes.",
            f"Use --set vocab_size={len(SPECIAL) + len(alphabet)} or more.",
        )
    vocabulary = [*SPECIAL, *alphabet]
    merges = read_template("tokenizer/merges.txt").splitlines()
    merges = merges[: vocab_size - len(vocabulary)]
    vocabulary += [merge.replace(" ", "") for merge in merges]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return {
        "tokenizer.json": _dump(_tokenizer(ids, merges)),
        "tokenizer_config.json": _dump(_tokenizer_config()),
    }


def generation_config(raw: Mapping[str, Any]) -> str:
    fields = {"_from_model_config": True, "do_sample": True, "temperature": 0.6, "top_p": 0.95}
    ids = {"bos_token_id": raw.get("bos_token_id", 0), "eos_token_id": raw.get("eos_token_id", 1)}
    return _dump({**fields, **ids})


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _byte_alphabet() -> list[str]:
    """GPT-2's printable letter for each byte, in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _tokenizer(ids: Mapping[str, int], merges: list[str]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": ids[t], "content": t, **flags, "special": True} for t in SPECIAL]
    begin = {"SpecialToken": {"id": BEGIN, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, begin, second],
            "special_tokens": {BEGIN: {"id": BEGIN, "ids": [ids[BEGIN]], "tokens": [BEGIN]}},
        },
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(ids),
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 163840,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": read_template("tokenizer/chat_template.jinja").strip(),
    }
