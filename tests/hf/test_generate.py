"""transformers' generate finds what fairseq's search finds."""

import itertools
import threading

import pytest
import torch
from exported import STREAM, TRANSLATION, checkpoint, run_export, write_dictionaries
from fairseq.data import data_utils
from fairseq.sequence_generator import SequenceGenerator

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from fairseq_srupp.hf import SRUppForCausalLM, SRUppLMConfig  # noqa: E402
from fairseq_srupp.hf.modeling import CACHE  # noqa: E402

PAD, EOS = 1, 2


def decided(model):
    """With clear preferences, in which the source has a part: translations end at different times."""
    model.encoder.embed_tokens.weight.data.mul_(3)
    model.decoder.output.linear.weight.data.mul_(5)
    model.decoder.output.linear.bias.data[EOS] += 1


def sentences(count=12, seed=2):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.cat((torch.randint(4, 30, (n,), generator=generator), torch.tensor([EOS]))) for n in lengths]


@pytest.fixture
def translation(awake, tmp_path):
    write_dictionaries(tmp_path)
    model, task, path = checkpoint(tmp_path, awake, [*TRANSLATION, "--attention-heads", "2"], decided)
    run_export(path, tmp_path / "hf")
    return model, task, transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()


@pytest.fixture
def language(awake, tmp_path):
    write_dictionaries(tmp_path)
    change = lambda model: model.decoder.output.linear.weight.data.mul_(3)  # noqa: E731
    model, task, path = checkpoint(tmp_path, awake, STREAM, change)
    run_export(path, tmp_path / "hf")
    return model, task, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()


def translated_by_fairseq(model, task, source, **options):
    generator = SequenceGenerator([model], task.target_dictionary, **options)
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    return [hypotheses[0]["tokens"].tolist() for hypotheses in generator.generate([model], sample)]


def until_eos(rows):
    """Without what stands after the first end of sentence."""
    return [list(itertools.takewhile(lambda token: token != EOS, row)) + [EOS] for row in rows]


@pytest.mark.parametrize(
    "options",
    [
        ({}, {}),
        ({"beam_size": 1}, {"num_beams": 1}),
        ({"beam_size": 3, "len_penalty": 0.6, "max_len_b": 9}, {"num_beams": 3, "length_penalty": 0.6, "max_new_tokens": 10}),
        ({"beam_size": 4, "min_len": 5, "max_len_b": 6}, {"num_beams": 4, "min_new_tokens": 5, "max_new_tokens": 7}),
    ],
    ids=["default", "greedy", "short", "long enough"],
)
def test_translations_are_those_of_fairseq(translation, options):
    model, task, exported = translation
    fairseqs, own = options
    source = data_utils.collate_tokens(sentences(), PAD, left_pad=True)
    fairseqs = {"beam_size": 5, "max_len_b": 200, "min_len": 1, **fairseqs}
    expected = translated_by_fairseq(model, task, source, **fairseqs)
    assert len(set(map(len, expected))) > 1 or "max_len_b" in options[0]
    assert until_eos(exported.generate(source, **own)[:, 1:].tolist()) == expected
    mask = source.ne(PAD).long()
    assert until_eos(exported.generate(source, attention_mask=mask, use_cache=False, **own)[:, 1:].tolist()) == expected


def continued_by_fairseq(model, task, prompt, **options):
    """As fairseq-interactive does with a stream: the first token stands where the end of sentence would."""
    generator = SequenceGenerator([model], task.target_dictionary, **options)
    sample = {"net_input": {"src_tokens": prompt, "src_lengths": prompt.ne(PAD).sum(1)}, "id": torch.arange(len(prompt))}
    return [hypotheses[0]["tokens"].tolist() for hypotheses in task.inference_step(generator, [model], sample)]


@pytest.mark.parametrize("beam", [1, 4])
def test_texts_are_continued_as_by_fairseq(language, beam):
    model, task, exported = language
    prompt = torch.randint(4, 30, (3, 7), generator=torch.Generator().manual_seed(3))
    model.make_generation_fast_(beamable_mm_beam_size=beam)
    expected = continued_by_fairseq(model, task, prompt, beam_size=beam, max_len_b=25, min_len=25)
    options = {"early_stopping": True} if beam > 1 else {}
    found = exported.generate(prompt, num_beams=beam, max_new_tokens=19, min_new_tokens=19, do_sample=False, **options)
    assert [row[:-1] for row in expected] == found.tolist()  # fairseq's end of sentence comes after these
    uncached = exported.generate(prompt, num_beams=beam, max_new_tokens=19, min_new_tokens=19, use_cache=False, **options)
    assert uncached.tolist() == found.tolist()


@pytest.mark.parametrize("beam", [1, 3])
def test_prompts_of_several_lengths_are_continued_as_each_alone(language, beam):
    _, _, exported = language
    prompts = [tokens[:-1] for tokens in sentences(5)]
    together = data_utils.collate_tokens(prompts, PAD, left_pad=True)
    found = exported.generate(together, attention_mask=together.ne(PAD).long(), num_beams=beam, max_new_tokens=15)
    for prompt, row in zip(prompts, found):
        (alone,) = exported.generate(prompt[None], num_beams=beam, max_new_tokens=15)
        kept = row[together.size(1) - len(prompt) :]
        assert until_eos([kept.tolist()]) == until_eos([alone.tolist()])


def test_sampling_and_streaming(language):
    _, _, exported = language
    prompt = torch.tensor([[5, 6, 7]])
    torch.manual_seed(0)
    several = exported.generate(prompt, do_sample=True, max_new_tokens=12, num_return_sequences=8, top_k=5)
    assert len({tuple(row) for row in several.tolist()}) > 1 and PAD not in until_eos(several.tolist())[0]
    seen = []

    class Streamer(transformers.generation.streamers.BaseStreamer):
        def put(self, value):
            seen.extend(value.flatten().tolist())

        def end(self):
            seen.append(None)

    found = exported.generate(prompt, max_new_tokens=12, do_sample=False, streamer=Streamer())
    assert seen == [*found[0].tolist(), None]


def test_text_streams_from_another_thread(awake, tmp_path):
    from fairseq_srupp.data.byte_symbols import BYTE_SYMBOLS

    with open(tmp_path / "dict.txt", "w") as file:
        file.writelines(f"{symbol} 1\n" for symbol in BYTE_SYMBOLS)
    _, _, path = checkpoint(tmp_path, awake, STREAM)
    run_export(path, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    inputs = tokenizer("héllo \x00", return_tensors="pt")
    streamer = transformers.TextIteratorStreamer(tokenizer)
    options = {"do_sample": False, "max_new_tokens": 40}
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **options, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(model.generate(**inputs, **options)[0]) and text.startswith("héllo \x00")


def test_what_generation_keeps_is_bounded_by_the_window():
    config = SRUppLMConfig(vocab_size=20, hidden_size=8, attention_dim=4, layers=1, mem_len=6)
    model = SRUppForCausalLM(config).eval()
    found = model.generate(torch.tensor([[5]]), max_new_tokens=200, min_new_tokens=200, return_dict_in_generate=True)
    cache = found[CACHE]
    memory = cache.state.layers[0].memory
    assert cache.get_seq_length() == 200 and len(memory) == 6 and memory._buffer.data.size(3) <= 4 * 7


def test_going_on_from_a_cache(language):
    _, _, exported = language
    prompt = torch.tensor([[5, 6, 7, 8, 9, 10]])
    whole = exported.generate(prompt, max_new_tokens=10, min_new_tokens=10)
    first = exported.generate(prompt, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    cache = first[CACHE]
    rest = exported.generate(first.sequences, **{CACHE: cache}, max_new_tokens=6, min_new_tokens=6)
    assert rest.tolist() == whole.tolist()
    with pytest.raises(NotImplementedError, match="cannot go back"):
        cache.crop(-1)
