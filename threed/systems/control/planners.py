"""Planners: from a prompt to a plan of its picture, by rules or by a language model.

Whatever a language model answers is read strictly, in the two lines that RPG's published template
ends with; anything else is an error that shows what was answered.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from threed.core.errors import InputError
from threed.diffusion.parts.plans import MOST, Plan, split_plan

Planner = Callable[[str], Plan]
Ask = Callable[[str], str]
"""A language model: what it is told -> what it answers."""

KEY = "THREED_PLANNER_KEY"  # the environment variable of an endpoint's key
SECONDS = 60  # that an endpoint may take
LARGEST = 2**20  # bytes of an endpoint's answer
TOKENS = 400  # that a local model may answer

INSTRUCTION = f"""Plan a picture. Divide it into regions that do not overlap, one for each thing \
that its caption names, placed as the caption says, and describe each region by itself, with all \
attributes that the caption gives the thing.

Write regions as a split ratio. Commas part columns from left to right: 1,2 means two columns, the \
second twice as wide. Semicolons part rows from top to bottom, and then the first number of each \
row is its height: 1;2,1,1 means a row over another one of twice its height in two columns. There \
are at most {MOST} regions.

End with these two lines, the prompts in the order of the regions, row by row:
Final split ratio: <ratio>
Regional Prompt: <first region> BREAK <second region> BREAK <and so on>

For example, for "a red ball and a blue cube on a green table":
Final split ratio: 2,1,1;1
Regional Prompt: a red ball BREAK a blue cube BREAK a green table

The caption: """

_TAIL = re.compile(r"((?: on| in front of) an? [\w ]*background)?((?:, \w+ view)?)$")
_ITEM = r"(?:an?|the|one|two|three|four|some|another)\b"
_LEFT = re.compile(r",? (?:on|at|to) the left(?: side)?\b(?! of)")
_RIGHT = re.compile(r",? (?:on|at|to) the right(?: side)?\b(?! of)")
_UPPER = re.compile(r" (?:on top of|standing on|lying on|sitting on|on|above|over) ")
_LOWER = re.compile(r" (?:below|under|underneath|beneath) ")
_BEFORE = re.compile(r",? (?:to the left of|left of|next to|beside) ")
_AFTER = re.compile(r",? (?:to the right of|right of) ")


def by_rules(prompt: str) -> Plan:
    """A plan from the prompt's own words: what stands on what, left and right, and "and".

    Without such words it is one region. A background and a view belong to every region.
    """
    tail = "".join(part or "" for part in _TAIL.search(prompt).groups())  # type: ignore[union-attr]
    body = prompt.removesuffix(tail)
    rows = [columns(row) for row in _rows(body)]
    heights = 1 if len(rows) > 1 else 0  # a row of its own begins with no height
    split = ";".join(",".join(["1"] * (heights + len(row))) for row in rows)
    return split_plan(prompt, split, [f"{item}{tail}" for row in rows for item in row])


def _rows(body: str) -> list[str]:
    """What is above, and what below it, as far as the words say so."""
    for words, above in ((_UPPER, True), (_LOWER, False)):
        found = words.search(re.sub(r" (?:on|at|to) the (?:left|right)", _blank, body))
        if found is not None:
            parts = [body[: found.start()], body[found.end() :]]
            return parts if above else parts[::-1]
    return [body]


def _blank(found: re.Match[str]) -> str:
    return "-" * len(found[0])


def columns(row: str) -> list[str]:
    """The things of a row from left to right, as far as its words say so."""
    for words, leading in ((_BEFORE, True), (_AFTER, False)):
        if found := words.search(row):
            parts = [columns(row[: found.start()]), columns(row[found.end() :])]
            first, then = parts if leading else parts[::-1]
            return first + then
    items = _items(row)
    places = [(_LEFT.search(item) and -1) or (_RIGHT.search(item) and 1) or 0 for item in items]
    order = sorted(range(len(items)), key=places.__getitem__)
    return [_RIGHT.sub("", _LEFT.sub("", items[i])).strip() for i in order]


def _items(row: str) -> list[str]:
    """What "and" and commas part; only before articles and numbers, if any follows one."""
    joint = r"(?:,? and |, )"
    if re.search(joint + _ITEM, row):
        joint += f"(?={_ITEM})"
    return [item for item in re.split(joint, row) if item.strip()] or [row]


def asking(ask: Ask) -> Planner:
    """The planner that asks a language model. InputError for an answer that is no plan."""
    return lambda prompt: read_answer(prompt, ask(INSTRUCTION + prompt))


def read_answer(prompt: str, answer: str) -> Plan:
    """The plan in a language model's answer: the last of each of the two lines counts.

    InputError, with the answer's end, if one is missing, or the two do not fit.
    """
    shown = " ".join(answer.split())[-200:]
    lines = {}
    for name in ("Final split ratio", "Regional Prompt"):
        found = re.findall(rf"^\W*{name}\W*?:[ *]*(.+?)[ *]*$", answer, re.MULTILINE)
        if not found:
            raise InputError(f"the planner's answer has no line '{name}: ...'; it ends: {shown!r}. "
                             "Try another planner, or give a split and regions")  # fmt: skip
        lines[name] = found[-1]
    prompts = re.split(r"\s*\bBREAK\b\s*", lines["Regional Prompt"])
    try:
        return split_plan(prompt, lines["Final split ratio"].strip(), prompts)
    except InputError as error:
        raise InputError(f"the planner's answer is no plan: {error}; it ends: {shown!r}") from error


def endpoint(url: str, model: str, key: str | None = None) -> Ask:
    """A model behind an interface like OpenAI's: POST {url}/chat/completions.

    InputError if it cannot be reached, refuses, or answers in another form.
    """

    def ask(text: str) -> str:
        message = {
            "model": model,
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = f"{url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(message).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                data = response.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(200).decode(errors="replace")
            raise InputError(
                f"the planner at {address} refuses ({error.code}): {reason}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise InputError(f"the planner at {address} cannot be reached: "
                             f"{getattr(error, 'reason', error)}") from error  # fmt: skip
        return _content(data, address)

    return ask


def _content(data: bytes, address: str) -> str:
    try:
        if len(data) > LARGEST:
            raise ValueError("too long")
        content = json.loads(data)["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError("no text")
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"the planner at {address} does not answer like OpenAI's chat "
                         f"completions: {data[:200]!r}") from error  # fmt: skip
    return content


def local_model(name: str, device: str = "auto") -> Ask:
    """A language model of transformers: a folder, or a name of the hub. Always its likeliest words.

    InputError if there is none.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from threed.core.devices import pick_device

    where = pick_device(device)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"there is no language model {name!r} that plans: {reason}") from error
    model = model.to(where).eval()

    def ask(text: str) -> str:
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        ids = tokenizer(text, return_tensors="pt").to(where)
        out = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False,
                             pad_token_id=tokenizer.eos_token_id)  # fmt: skip
        answer: str = tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
        return answer

    return ask


def find_planner(name: str) -> Planner:
    """ "rules", "http://HOST/v1#MODEL" (its key in THREED_PLANNER_KEY), or a local model's name.

    InputError for an endpoint without a model.
    """
    if name == "rules":
        return by_rules
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        if not model:
            raise InputError(f"planner {name!r}: say which model after a #, such as {url}#gpt-4o")
        return asking(endpoint(url, model, os.environ.get(KEY)))
    return asking(local_model(name))
