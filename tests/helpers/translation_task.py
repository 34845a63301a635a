"""The task of a small translation, as far as a model asks it."""

from fairseq.data import Dictionary


def dictionary(symbols):
    made = Dictionary()
    for symbol in range(symbols - len(made)):
        made.add_symbol(f"w{symbol}")
    return made


class Task:
    source_dictionary = dictionary(24)
    target_dictionary = dictionary(20)
