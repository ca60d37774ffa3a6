#!/usr/bin/env python3
"""Writes tests/vectors/tokenizer/: ids that Hugging Face's `tokenizers` gives.

    pip install tokenizers sentencepiece; python3 tests/make_tokenizer_vectors.py NAME TOKENIZER_JSON
    python3 tests/make_tokenizer_vectors.py families
    pip install 'transformers<5' sentencepiece protobuf; python3 tests/make_tokenizer_vectors.py sentencepiece

NAME: each entry has the text's bytes in hex (they need not be UTF-8: tokenizers sees what Python's
errors="replace" makes of them), ids with and without special tokens, the decoded text.
families: tokenizers of fixtures with other parts; `patch` says what differs from the fixture's
tokenizer.json (dots separate keys; added_tokens are appended). One list of ids for each text, and
random ids with their text.
sentencepiece: small models, trained here, as transformers converts them.
"""
import base64
import json
import os
import random
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer

FOLDER = "tests/vectors/tokenizer"
FIXTURES = "tests/vectors/fixtures"

TEXTS = [
    "", " ", "  ", "a", "Hello", " Hello", "Hello world", "Hello  world", "Once upon a time",
    "I'm you're we've he'll she'd it's 'tis DON'T I'M IT'S 'ſ", "1234567890 12 345 6 7.89 1,000,000",
    "tab\tand\nnewline\r\nand  \n\n  more \n   spaces   ", "trailing   ", "   leading", "\n", "\n\n\n",
    " \n \n ", "a\u00a0b\u2003c\u3000d\u2028e", "naïve café Ünïcödé ÆØÅ ß ẞ", "Привет, мир! Как дела?",
    "日本語のテキスト、漢字とかな。", "中文字符测试 123 测试", "한국어 텍스트", "العربية نص ١٢٣", "עברית", "हिन्दी पाठ १२३",
    "ไทย", "👍 👨‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ñ ñ", "½ ² ³ Ⅷ ㊿ ໑", "x = [i ** 2 for i in range(10)]  # comment\n",
    "int main(void) {\n\treturn 0;\n}\n", "https://example.org/a?b=c&d=%20#e", "!!! ??? ... --- ___ *** (((",
    "foo_bar-baz.qux@example.org", "a'b''c'''d", "\x00nul\x00 \x01\x7f", "zero\u200bwidth\ufeffbom",
    "<|begin_of_text|>", "a<|end_of_text|>b", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi",
    "<|begin_of_tex", "<|im_start|>user\nhi<|im_end|>\n", "a" * 300, "ab" * 200, " " * 100, "\n" * 50,
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
]
BYTES = [b"\xff\xfe", b"a\x80b", b"\xe2\x82", b"\xf0\x9f\x91 ok", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80"]


def random_texts():
    draw = random.Random(7)
    letters = "abc ABC  \n\t'’.,!?0123é漢😀\u00a0<|>_\r"
    for _ in range(60):
        yield "".join(draw.choice(letters) for _ in range(draw.randrange(1, 60)))


# ---- families -----------------------------------------------------------------------------------

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
LEAD = "[^\\r\\n\\p{L}\\p{N}]?"
BYTES_STEP = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_STEP = dict(BYTES_STEP, use_regex=True)


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def words(*steps):
    return {"pre_tokenizer": sequence(*steps, BYTES_STEP)}


def normalizers(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def decoders(*steps):
    return {"decoder": {"type": "Sequence", "decoders": list(steps)}}


def text_replace(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


BLANKS = text_replace("▁", " ")
O200K = (f"{LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?|\\p{{N}}{{1,3}}|"
         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
TEKKEN = (f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\\p{{N}}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
ATOMIC = ("'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|"
          "\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s")
CLASSES = "[\\p{Han}&&[^一]]+|[\\p{Lu}\\p{Ll}&&[^a-c]]+|\\W{3,}?|(?=[^\\x41-\\u0044])\\d{2}|é*?x"
HAN = "[一-龥ࠀ-一가-\ud7ff]+"


def plain(content, **keys):
    token = {"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return dict(token, **keys)


ADDED = {"added_tokens": [plain("<X>", rstrip=True), plain("<Y>", lstrip=True, special=True),
                          plain("an", single_word=True), plain("Ü b", normalized=True),
                          plain("<X><Y>", normalized=True)]}
BYTE_FAMILIES = {
    "gpt2": {"pre_tokenizer": GPT2_STEP},
    "prefix_space": {"pre_tokenizer": dict(GPT2_STEP, add_prefix_space=True)},
    "o200k": words(split(O200K)),
    "o200k_inverted": words(split(O200K, "Removed", True)),
    "tekken": words(split(TEKKEN)),
    "deepseek3": words(split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK)),
    "deepseek": words(split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split("\\s+$"), split(HAN),
                      {"type": "Digits", "individual_digits": True}),
    "starcoder": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, GPT2_STEP)},
    "bloom": words(split(" ?[^(\\s|[.,!?…。，、।۔،])]+")),
    "atomic": words(split(ATOMIC)),
    "classes": words(split(CLASSES, "MergedWithNext")),
    "marks": words(split(f"{CONTRACTIONS}|{LEAD}[\\p{{L}}\\p{{M}}]+|\\p{{N}}|{TAIL}")),
    "contiguous": words(split("\\d", "Contiguous"), {"type": "Punctuation", "behavior": "Contiguous"}),
    "merged": words(split("\\s", "MergedWithNext", True), {"type": "Punctuation", "behavior": "MergedWithPrevious"}),
    "empty": words(split("a*|\\n")),
    "spaces": words({"type": "WhitespaceSplit"}),
    "whitespace": words({"type": "Whitespace"}),
    "nfc": dict(normalizers({"type": "NFC"}), **ADDED),
    "nfkc_lower": normalizers({"type": "NFKC"}, {"type": "Lowercase"}),
    "nfd": {"normalizer": {"type": "NFD"}},
    "nfkd_strip": normalizers({"type": "NFKD"}, {"type": "Strip", "strip_left": True, "strip_right": False}),
    "replace": normalizers({"type": "Replace", "pattern": {"Regex": "\\s+$|[aeiou]{2,}| {2,}"}, "content": "é"}),
    "added": dict(ADDED, **{"model.ignore_merges": False}),
}
PIECE_FAMILIES = {
    "gemma": dict(decoders(BLANKS, {"type": "ByteFallback"}, {"type": "Fuse"}), normalizer=text_replace(" ", "▁"),
                  pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                                 "invert": False}),
    "metaspace_first": {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
    "metaspace": {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
    "unknown": {"model.byte_fallback": False},
    "unknown_each": {"model.byte_fallback": False, "model.fuse_unk": False},
    "left_out": {"model.byte_fallback": False, "model.unk_token": None},
    "joined": {"decoder": None},
    "pieces_added": dict(ADDED, **decoders(BLANKS, {"type": "ByteFallback"}, {"type": "Fuse"})),
}


def unigram(fixture):
    """The fixture's pieces with made-up scores, SentencePiece's map of a few rules."""
    with open(f"{FIXTURES}/{fixture}/tokenizer.json", encoding="utf-8") as file:
        vocab = json.load(file)["model"]["vocab"]
    pieces = sorted(vocab, key=vocab.get)[:700]
    scores = [[piece, round(-2 - 9 * (index / 700) ** 0.5, 4) if index > 2 else 0.0]
              for index, piece in enumerate(pieces)]
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    rules = [({"type": "Precompiled", "precompiled_charsmap": charsmap()}), text_replace("  ", " ")]
    base = {"pre_tokenizer": meta, "decoder": meta, **normalizers(*rules)}
    model = {"type": "Unigram", "unk_id": 0, "vocab": scores}
    return {"unigram": dict(base, model=dict(model, byte_fallback=True)),
            "unigram_unknown": dict(base, model=dict(model, byte_fallback=False))}


def charsmap():
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/rules.tsv", "w", encoding="utf-8") as rules:
            for old, new in [("ﬁ", "fi"), ("½", "1/2"), ("é", "e"), ("e\u0301", "E"), ("\u3000", " "), ("\r\n", "\n"),
                             ("™", ""), ("ab", "AB")]:
                rules.write(" ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20), model_prefix=f"{folder}/m", vocab_size=300, hard_vocab_limit=False,
            normalization_rule_tsv=f"{folder}/rules.tsv", minloglevel=2)
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model").serialized_model_proto()
    # normalizer_spec is field 3, its charsmap field 2
    at = 0
    while at < len(model):
        tag, at = varint(model, at)
        size, start = varint(model, at) if tag & 7 == 2 else (0, at)
        if tag == 3 << 3 | 2:
            spec, inner = model[start:start + size], 0
            while inner < len(spec):
                key, inner = varint(spec, inner)
                value, inner = varint(spec, inner)
                if key == 2 << 3 | 2:
                    return base64.b64encode(spec[inner:inner + value]).decode()
                inner += value if key & 7 == 2 else 0
        at = start + size
    raise ValueError("no map")


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def script_texts():
    """Random text of all scripts, of Unicode as this Python knows it."""
    draw = random.Random(11)
    known = [c for c in map(chr, range(0x20, 0x32000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    for _ in range(8):
        yield "".join(draw.choice(known) for _ in range(12))
    for _ in range(10):
        yield "".join(draw.choice(known[:2500]) if draw.random() < 0.5 else draw.choice(" \n\r\t'sStTabcAB019.,!/-")
                      for _ in range(24))


def family_texts():
    few = [t for t in TEXTS if 5 < len(t) < 70][::2]
    more = ["<X> a<Y> b <X>  <Y>\n<X><Y>x", "an ban an, anna u\u0308 b Ü b",
            "İstanbul ŉ ﬁ½²™ ℌ Å ｶﾞ 각\u1100\u1161\u11a8", "e\u0301e\r\n ab\u3000 a\u0323\u0307\u0345", "▁▁a ▁ b▁", "<0x41><s> hi </s>", "  <s>  a  </s>  ", "abcABC 12345 xéx ééx --- !!! 一二三四", " \n\n \n \t  "]
    return [t.encode() for t in few + more + list(script_texts())] + BYTES[:3]


def patched(fixture, patch):
    with open(f"{FIXTURES}/{fixture}/tokenizer.json", encoding="utf-8") as file:
        whole = json.load(file)
    for path, value in patch.items():
        *parents, key = path.split(".")
        place = whole
        for parent in parents:
            place = place[parent]
        if key == "added_tokens":
            value = place[key] + [dict(v, id=len(whole["model"]["vocab"]) + 3 + i) for i, v in enumerate(value)]
        place[key] = value
    return Tokenizer.from_str(json.dumps(whole))


def variant(name, fixture, patch, texts):
    tokenizer = patched(fixture, patch)
    draw = random.Random(5)
    ids = [tokenizer.encode(t.decode(errors="replace")).ids for t in texts]
    lists = [[draw.randrange(draw.choice([300, 700, 1024])) for _ in range(draw.randrange(12))] for _ in range(12)]
    lists = [[i for i in one if tokenizer.id_to_token(i)] for one in lists] + ids[::9]
    return {"name": name, "fixture": fixture, "patch": patch, "ids": ids,
            "decoded": [[one, tokenizer.decode(one, skip_special_tokens=False).encode().hex()] for one in lists]}


def write(name, content):
    with open(f"{FOLDER}/{name}.json", "w", encoding="utf-8") as out:
        json.dump(content, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


def write_families():
    texts = family_texts()
    variants = [variant(n, "llama32-4b-g128", p, texts) for n, p in BYTE_FAMILIES.items()]
    variants += [variant(n, "phi3-4b-g128", p, texts) for n, p in PIECE_FAMILIES.items()]
    variants += [variant(n, "phi3-4b-g128", p, texts) for n, p in unigram("phi3-4b-g128").items()]
    write("families", {"texts": [t.hex() for t in texts], "variants": variants})


# ---- tokenizer.model ----------------------------------------------------------------------------


def described(content, **keys):
    return dict({"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True}, **keys)


LLAMA = {"tokenizer_class": "LlamaTokenizer"}
DECODER = {"0": described("<unk>"), "1": described("<s>"), "2": described("</s>"),
           "400": described("<X>", rstrip=True), "401": described("<Y>", lstrip=True, special=False)}
MODELS = [ # name, model, tokenizer_config.json, other files
    ("nothing", "bpe", None, {}),
    ("legacy", "bpe", dict(LLAMA, legacy=True, add_eos_token=True, bos_token="<s>", eos_token="</s>"), {}),
    ("metaspace", "bpe", dict(LLAMA, legacy=False, add_bos_token=False), {}),
    ("added", "bpe", LLAMA, {"added_tokens.json": {"<Y>": 401, "<X>": 400},
                             "special_tokens_map.json": {"pad_token": "<X>", "eos_token": "</s>"}}),
    ("decoder", "bpe", dict(LLAMA, legacy=False, added_tokens_decoder=DECODER), {}),
    ("gemma", "bpe", {"tokenizer_class": "GemmaTokenizer", "bos_token": "</s>", "eos_token": "<s>",
                      "pad_token": "<unk>"}, {}),
    ("unigram", "unigram", LLAMA, {}),
]


def train(kind):
    import sentencepiece
    lines = [line for t in TEXTS for line in t.replace("\x00", "").split("\n") if line]
    with open("runtime/licenses.txt", encoding="utf-8") as file:
        lines += file.read().split("\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=f"{FOLDER}/{kind}", model_type=kind, vocab_size=400,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        character_coverage=0.98, user_defined_symbols=["<user>", "▁▁▁"], allow_whitespace_only_pieces=True,
        minloglevel=2)
    os.remove(f"{FOLDER}/{kind}.vocab")


def convert(model, files):
    from transformers import GemmaTokenizerFast, LlamaTokenizerFast
    config = files.get("tokenizer_config.json") or {}
    kind = GemmaTokenizerFast if config.get("tokenizer_class", "").startswith("Gemma") else LlamaTokenizerFast
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            with open(f"{folder}/{name}", "w", encoding="utf-8") as out:
                json.dump(content, out)
        with open(f"{FOLDER}/{model}.model", "rb") as source, open(f"{folder}/tokenizer.model", "wb") as out:
            out.write(source.read())
        return kind.from_pretrained(folder)._tokenizer


def write_sentencepiece():
    texts = [t for t in family_texts() if b"<Y>" not in t or b"\n" in t]
    for kind in ("bpe", "unigram"):
        train(kind)
    entries = []
    for name, model, config, files in MODELS:
        files = dict(files, **({"tokenizer_config.json": config} if config else {}))
        tokenizer = convert(model, files)
        ids = [tokenizer.encode(t.decode(errors="replace")).ids for t in texts]
        entries.append({"name": name, "model": model, "files": files, "ids": ids,
                        "decoded": [[one, tokenizer.decode(one, skip_special_tokens=False).encode().hex()]
                                    for one in ids[::5]]})
    write("sentencepiece", {"texts": [t.hex() for t in texts], "models": entries})


# ---- one tokenizer ------------------------------------------------------------------------------


def write_one(name, path):
    tokenizer = Tokenizer.from_file(path)
    entries = []
    for data in [t.encode() for t in TEXTS] + BYTES + [t.encode() for t in random_texts()]:
        text = data.decode(errors="replace")
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        entries.append({
            "hex": data.hex(),
            "ids": tokenizer.encode(text).ids,
            "plain": ids,
            "text": tokenizer.decode(ids, skip_special_tokens=False),
        })
    write(name, entries)


def main():
    if sys.argv[1:] == ["families"]:
        write_families()
    elif sys.argv[1:] == ["sentencepiece"]:
        write_sentencepiece()
    else:
        write_one(*sys.argv[1:])


main()
