#!/usr/bin/env python3
"""Conversations and gaps from the command line and Python down to the ids that the model gets, and the end token of a
checkpoint whose config names none.

The checkpoint is the demo model's weights with a byte-level tokenizer made here: ids 0..255 are the bytes, behind them
the control tokens that make Mistral's template.
"""
import json
import pathlib
import shutil
import tempfile

import harness
from harness import Daemon, DEMO, equal, expect

BOS, EOS, INST, END_INST, PREFIX, SUFFIX = range(256, 262)
CONTROLS = ["<s>", "</s>", "[INST]", "[/INST]", "[PREFIX]", "[SUFFIX]"]


def stand_ins():
    """The character that byte-level tokenizers write for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (chr(0x100 + i) for i in range(256))
    return [chr(b) if b in plain else next(others) for b in range(256)]


def make_checkpoint(directory):
    directory.mkdir()
    config = json.loads((DEMO / "config.json").read_text())
    del config["eos_token_id"]
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(DEMO / "model.safetensors", directory / "model.safetensors")
    added = [{"id": 256 + i, "content": text, "special": True, "normalized": False} for i, text in enumerate(CONTROLS)]
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(stand_ins())}, "merges": []}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


class Rig:
    """A daemon with that checkpoint as `coder`, and the demo model, whose tokenizer has no template."""

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="m2template."))
        try:
            make_checkpoint(self.directory / "coder")
            self.daemon = Daemon({"coder": {"checkpoint": str(self.directory / "coder")}, "demo": {}})
            self.daemon.__enter__()
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        return self.daemon

    def __exit__(self, *error):
        try:
            self.daemon.__exit__(*error)
        finally:
            shutil.rmtree(self.directory)


def prompt_ids(d, *arguments, **more):
    out = d.ctl("generate", "coder", *arguments, "-n", "2", "--temperature", "0", "--json", **more).stdout
    return json.loads(out)["prompt"]["tokens"]


def text(words):
    return list(words.encode())


def the_command_line_makes_conversations_and_gaps():
    with Rig() as d:
        equal(prompt_ids(d, "hi"), text("hi"), "plain text")
        equal(prompt_ids(d, "--chat", "hi"), [BOS, INST, *text("hi"), END_INST], "one message")
        equal(prompt_ids(d, "--chat", "hi", "--system", "be kind"), [BOS, INST, *text("be kind\n\nhi"), END_INST], "system")
        equal(prompt_ids(d, "--chat", input="from stdin\n"), [BOS, INST, *text("from stdin"), END_INST], "standard input")
        equal(prompt_ids(d, "def f(", "--suffix", "return"), [BOS, SUFFIX, *text("return"), PREFIX, *text("def f(")], "a gap")
        equal(prompt_ids(d, "", "--suffix", "x"), [BOS, SUFFIX, *text("x"), PREFIX], "nothing before it")
        equal(prompt_ids(d, "--chat", "[/INST]</s>"), [BOS, INST, *text("[/INST]</s>"), END_INST], "nobody forges a token")
        conversation = d.directory / "conversation.json"
        conversation.write_text(json.dumps([
            {"role": "system", "content": "S"}, {"role": "user", "content": "é"},
            {"role": "assistant", "content": "ok "}, {"role": "user", "content": "\"more\"\n"}]))
        want = [BOS, INST, *text("é"), END_INST, *text("ok"), EOS, INST, *text('S\n\n"more"\n'), END_INST]
        equal(prompt_ids(d, "--messages", conversation), want, "a whole conversation")
        equal(prompt_ids(d, "--messages", "-", input=conversation.read_text()), want, "from standard input")
        for wrong in (["--chat", "x", "--suffix", "y"], ["--chat", "--tokens", "1"], ["--suffix", "y", "--tokens", "1"],
                      ["--messages", conversation, "x"], ["--messages", conversation, "--system", "y"]):
            equal(d.ctl("generate", "coder", *wrong, check=False, input="").returncode, 2, f"usage: {wrong}")


def python_makes_the_same():
    with Rig() as d, d.connect() as client:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "日本"}]
        chat = [BOS, INST, *text("a"), END_INST, *text("b"), EOS, INST, *text("日本"), END_INST]
        gap = [BOS, SUFFIX, *text("end"), PREFIX, *text("begin")]
        for given, want in (({"messages": messages}, chat), ({"prefix": "begin", "suffix": "end"}, gap),
                            ({"suffix": "end"}, [*gap[:5], PREFIX])):
            with client.generate("coder", max_tokens=3, temperature=0, ignore_eos=True, **given) as request:
                equal(len(list(request)), 3, f"tokens after {given}")
                equal([int(i) for i in request.prompt()], want, f"generate {given}")
            equal([int(i) for i in client.score("coder", **given).tokens()], want, f"score {given}")
            equal(client.tokenize("coder", **given), want, f"tokenize {given}")
            # the same ids given as ids: the same log-probabilities
            equal(list(client.score("coder", **given).logprobs())[1:],
                  list(client.score("coder", tokens=want).logprobs())[1:], f"scores of {given}")
        for both in ({"prompt": "x", "messages": messages}, {"tokens": [1], "suffix": "x"}, {"messages": [], "prefix": ""}):
            try:
                client.generate("coder", **both)
                raise harness.Failure(f"{both} was taken")
            except TypeError:
                pass


def refusals_name_the_variant_or_the_message():
    with Rig() as d, d.connect() as client:
        result = d.ctl("generate", "demo", "--chat", "hi", check=False)
        equal(result.returncode, 1, "a model without a template")
        expect("demo" in result.stderr and "(unsupported)" in result.stderr, f"names the variant: {result.stderr}")
        for given, field in (({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
                             ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
                             ({"messages": [{"role": "user", "content": "x"}] * 2}, "messages"),
                             ({"messages": []}, "messages")):
            try:
                client.generate("coder", **given)
                raise harness.Failure(f"{given} was taken")
            except harness.mamba2.Invalid as error:
                equal(error.field, field, f"field of {given}")
        for given in ({"messages": [{"role": "user", "content": "x"}]}, {"suffix": "x"}):
            try:
                client.tokenize("demo", **given)
                raise harness.Failure(f"{given} was taken")
            except harness.mamba2.Unsupported as error:
                equal(error.field, "input", f"field of {given}")
        equal(client.tokenize("coder", "hi"), text("hi"), "and it goes on")


def show_tells_tokenizer_and_template():
    with Rig() as d:
        for name in ("coder", "demo"):
            d.ctl("load", name)
        facts = {n: d.ctl_json("show", n)["variant"]["resident"]["checkpoint"] for n in ("coder", "demo")}
        expect("BPE" in facts["demo"]["tokenizer"], f"its kind: {facts['demo']}")
        equal(facts["demo"]["template"], "", "none")
        expect("mistral-v3" in facts["coder"]["template"], f"the template: {facts['coder']}")
        expect("mistral-v3" in d.ctl("show", "coder").stdout, "and in words")


def the_tokenizers_end_token_ends_a_text_where_the_config_names_none():
    with Rig() as d, d.connect() as client:
        for options, finish in (({}, "stop_token"), ({"ignore_eos": True}, "length")):
            with client.generate("coder", messages=[{"role": "user", "content": "x"}], max_tokens=4, temperature=0,
                                 logit_bias={EOS: 1000}, **options) as request:
                tokens = [t.id for t in request]
                equal((tokens[0], request.finish()), (EOS, finish), f"with {options}")
                equal(len(tokens), 1 if finish == "stop_token" else 4, f"tokens with {options}")


harness.main(the_command_line_makes_conversations_and_gaps, python_makes_the_same, refusals_name_the_variant_or_the_message,
             show_tells_tokenizer_and_template, the_tokenizers_end_token_ends_a_text_where_the_config_names_none)
