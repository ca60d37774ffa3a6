#!/usr/bin/env python3
"""Writes tests/vectors/tokenizer/*.json: ids that Hugging Face's `tokenizers` gives.

    pip install tokenizers; python3 tests/make_tokenizer_vectors.py NAME TOKENIZER_JSON

Each entry: the text's bytes in hex (they need not be UTF-8: tokenizers sees what Python's
errors="replace" makes of them), ids with and without special tokens, the decoded text.
"""
import json
import random
import sys

from tokenizers import Tokenizer

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


def main():
    name, path = sys.argv[1:]
    tokenizer = Tokenizer.from_file(path)
    entries = []
    for data in [t.encode() for t in TEXTS] + BYTES + [t.encode() for t in random_texts()]:
        text = data.decode(errors="replace")
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        entries.append({
            "hex": data.hex(),
            "ids": tokenizer.encode(text).ids,
            "plain": plain,
            "text": tokenizer.decode(plain, skip_special_tokens=False),
        })
    with open(f"tests/vectors/tokenizer/{name}.json", "w", encoding="utf-8") as out:
        json.dump(entries, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


main()
