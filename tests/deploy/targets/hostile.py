"""Strings that a quoting may take for something else: fixed ones, and random ones of their parts."""

import random

FIXED = [
    "", " ", "  two  spaces ", "'", '"', "''", "'\"'\"'", "\\", "\\\\", "\\n", "\\'", "trailing\\",
    "$", "$$", "$$$", "$HOME", "${HOME}", "${X:-y}", "$(id)", "$$(id)", "$(HOME)", "`id`", "$'a'",
    "%", "%%", "%h", "%n", "%%h", "%s%n", "{{ x }}", "{% x %}", "{", "}", "{a,b}", "#", "# no", "a #b",
    "!", "!!", "!x", "-", "--", "-rf", "--help", "-e", "=", "a=b", "=x", "*", "?", "[a]", "~", "~root",
    ";", "&", "&&", "|", "||", ">", "<", ">x", "2>&1", "<<E", "(", ")", "()", "\n", "a\nb", "\n\n", "a\n",
    "\r", "a\r\nb", "\t", "\ta", "\x01", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ufeff", "\u200b",
    "é", "漢字", "😀", "e\u0301", "yes", "no", "null", "~", "017", "0x1f", "1e3", "22:22", "2222:22", "on",
    "---", "- a", "a: b", "a:", ": a", "&a", "*a", "!!str a", "|", ">-", "@", "`", ",", "[", "]", "<<",
    ":", "::", "@x", "+x", "|x", "/", "//", ".", "..", "true", "!important", "%include", "a\\", "\\x41",
    "\\101", "\\e", "a;b", "a\\ b", "^", "^a", "\x02\x03", "x\x7fy\x01z", "EOF", "$@", "$*", "$1", "$0", "$?",
    "$!", "$-", "$#", "${", "$(", "$((1+1))", "$[1+1]", "<(id)", "=(id)", "'$HOME'", '"$HOME"', "\\$HOME",
]  # fmt: skip
_PARTS = ["'", '"', "\\", "$", "${X}", "$(id)", "`", "%", "%h", "{{", "}}", "\n", "\t", "\r", " ", "é",
          "漢", "😀", "#", "!", "-", "=", ":", ",", ";", "a", "B", "0", "\x01", "\x7f", "$$", "\u2028", "*",
          "~", "&", "|", "<", ">", "(", ")", "[", "]", "/", "$HOME", "\\n", "\\x41"]  # fmt: skip


def strings(count, seed, forbidden=""):
    """The fixed ones first; none with a character that is forbidden."""
    source = random.Random(seed)
    made = [
        *FIXED,
        *("".join(source.choices(_PARTS, k=source.randint(1, 9))) for _ in range(count)),
    ]
    return [text for text in made if not set(text) & set(forbidden)][:count]
