"""Tokens as Moses' tokenizer.perl cuts German and English: `moses.py LANG [lower] < text > tokens`.

As it was for the field's IWSLT'14 files; later on it also cut the full stop of an abbreviation that ends the line.
"""

import sys

import regex

# What keeps its full stop, besides words with a letter and another full stop in them (z.B.).
ABBREVIATIONS = {
    "de": "[A-Za-z]|[1-9][0-9]?|[IVX]+|Art|Bart|Co|Corp|Dr|Inc|Jr|Ltd|Mio|Mr|Mrd|Mrs|Ms|No|Nr|Prof|Rev|Sen|Sr|St|Std"
    "|bzgl|bzw|ca|etc|evtl|ff|ggf|inkl|jun|sen|sog|usf|usw|vgl|vs|zzt",
    "en": "[A-Z]|Adm|Bros|Capt|Col|Corp|Dr|Drs|Gen|Gov|Hon|Lt|Maj|Messrs|Mr|Mrs|Ms|Ph|Prof|Rep|Reps|Rev|Rt|Sen|Sens|Sgt"
    "|Sr|St|v|vs",
}
BEFORE_NUMBERS = "Art|No|Nos|Nr|pp"
# we 're and the 1990 's; 5'o stays; all others stand alone.
APOSTROPHE = r"((?<=\p{Alpha})'(?=\p{Alpha})|(?<=\p{N})'(?=s))|((?<=\p{N})'(?=\p{Alpha}))|'"
ESCAPES = {"&": "&amp;", "|": "&#124;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;", "[": "&#91;", "]": "&#93;"}


def tokenize(line: str, lang: str, lower: bool = False) -> str:
    """The tokens of a line, separated by spaces.

    Args:
        lower: the line is in lower case, so that the next word does not tell whether a full stop ends a sentence: it does.
    """
    line = regex.sub(r"[\x00-\x1f]", "", regex.sub(r"\s+", " ", line))
    line = regex.sub(r"[^\p{Alnum}\s.'`,-]", r" \g<0> ", line)
    line = regex.sub(r"\.{2,}", r" \g<0> ", line)
    line = regex.sub(r"(?<!\p{N}),|,(?!\p{N})", " , ", line)
    line = regex.sub(APOSTROPHE, apostrophe, line) if lang == "en" else line.replace("'", " ' ")
    words = line.split()
    tokens = [full_stop(word, following, lang, lower) for word, following in zip(words, [*words[1:], "."])]
    return "".join(ESCAPES.get(c, c) for c in " ".join(tokens))


def apostrophe(match: regex.Match) -> str:
    """An apostrophe of English with the spaces around it."""
    return " '" if match[1] else "'" if match[2] else " ' "


def full_stop(word: str, following: str, lang: str, lower: bool) -> str:
    """A word whose full stop, if it ends a sentence, is cut off."""
    stem = word[:-1]
    if not word.endswith(".") or not stem.strip("."):
        return word
    stays = (
        ("." in stem and regex.search(r"\p{Alpha}", stem))
        or regex.fullmatch(ABBREVIATIONS[lang], stem, regex.IGNORECASE if lower else 0)
        or (following[0].islower() and not lower)
        or (following[0] in "0123456789" and regex.fullmatch(BEFORE_NUMBERS, stem))
    )
    return word if stays else f"{stem} ."


def main() -> None:
    sys.stdin.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.reconfigure(encoding="utf-8")
    lang, *rest = sys.argv[1:]
    for line in sys.stdin:
        print(tokenize(line, lang, lower=rest == ["lower"]))


if __name__ == "__main__":
    main()
