"""Plans of pictures: splits, boxes, rules, and language models that may answer nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from threed.core.errors import InputError
from threed.diffusion.parts.plans import Plan, Region, read_regions, split_boxes, split_plan
from threed.systems.control import planners
from threed.systems.control.planners import by_rules, endpoint, find_planner, read_answer


def boxes(split: str) -> list[list[float]]:
    return [[round(number, 6) for number in box] for box in split_boxes(split)]


# splits and boxes


def test_commas_are_columns_and_semicolons_rows_with_their_height_first() -> None:
    assert boxes("1") == [[0, 0, 1, 1]]
    assert boxes("1,3") == [[0, 0, 0.25, 1], [0.25, 0, 1, 1]]
    assert boxes("1;3") == [[0, 0, 1, 0.25], [0, 0.25, 1, 1]]
    third = round(1 / 3, 6)
    assert boxes("1,1;2,1,1") == [[0, 0, 1, third], [0, third, 0.5, 1], [0.5, third, 1, 1]]
    assert boxes(" 0.4, 0.3,0.7; .6") == [[0, 0, 0.3, 0.4], [0.3, 0, 1, 0.4], [0, 0.4, 1, 1]]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 64])
@pytest.mark.parametrize("split", ["1,1,1", "1;1;1", "2,1,1,1;1,5,1;3", "0.1,0.2,0.7"])
def test_every_pixel_is_in_one_region(split: str, size: int) -> None:
    prompts = ["x"] * len(boxes(split))
    covered = torch.zeros(size, 2 * size)
    for region in split_plan("all", split, prompts).regions:
        covered[region.pixels(size, 2 * size)] += 1
    assert bool((covered == 1).all())


@pytest.mark.parametrize("split", ["", "a", "1,,2", "1;", "1,0", "-1,2", "nan,1", "1,inf", "1|2"])
def test_splits_that_are_none_are_refused(split: str) -> None:
    with pytest.raises(InputError, match="it takes numbers above 0 with commas"):
        boxes(split)


def test_splits_of_very_many_regions_are_refused() -> None:
    with pytest.raises(InputError, match="more than 16 regions"):
        boxes(",".join(["1"] * 17))


def test_a_split_needs_a_prompt_for_each_region() -> None:
    with pytest.raises(InputError, match="'1,1' has 2 regions, and there are 3 prompts"):
        split_plan("p", "1,1", ["a", "b", "c"])


@pytest.mark.parametrize(
    "box", [(-0.1, 0, 0.5, 1), (0, 0, 1.2, 1), (0.5, 0, 0.5, 1), (0, 0.8, 1, 0.2)]
)
def test_boxes_outside_the_picture_or_of_no_size_are_refused(box: Any) -> None:
    with pytest.raises(InputError, match="'a cup' is not in the picture: left, top, right"):
        Region("a cup", box)


def test_a_region_has_to_say_something_sensible() -> None:
    with pytest.raises(InputError, match="has no prompt"):
        Region("  ", (0, 0, 1, 1))
    for prompt in ("x" * 501, "a\x00b"):
        with pytest.raises(InputError, match="text of at most 500"):
            Region(prompt, (0, 0, 1, 1))


def test_regions_are_read_as_they_are_written() -> None:
    plan = read_regions("two toys", ["0,0,0.5,1:a red ball", "0.5,0.25,1,1:a cube: blue"])
    assert plan.regions == (
        Region("a red ball", (0, 0, 0.5, 1)), Region("a cube: blue", (0.5, 0.25, 1, 1))
    )  # fmt: skip
    assert read_regions("two toys", tuple(region.words() for region in plan.regions)) == plan
    assert read_regions("p", ["a", "b"], "1;1").regions[1] == Region("b", (0, 0.5, 1, 1))
    for text in ("a red ball", "0,0,1:a ball", "a,b,c,d:e"):
        with pytest.raises(InputError, match="write left,top,right,bottom:prompt"):
            read_regions("p", [text])


def test_from_behind_left_is_right() -> None:
    plan = split_plan("p", "1,1;2,1,3", ["a", "b", "c"])
    there = [region.mirrored() for region in plan.regions]
    assert [r.prompt for r in there] == ["a", "b", "c"]
    assert there[1].box == pytest.approx((0.75, 1 / 3, 1, 1))
    assert there[2].mirrored().box == pytest.approx(plan.regions[2].box)
    assert [r.whole_width for r in plan.regions] == [True, False, False]
    assert all(r.whole_width for r in split_plan("p", "1;1", ["a", "b"]).regions)


# rules


@pytest.mark.parametrize(
    ("prompt", "split", "regions"),
    [
        ("a red ball", "1", ["a red ball"]),
        ("a red ball and a blue cube", "1,1", ["a red ball", "a blue cube"]),
        ("red ball and blue cube", "1,1", ["red ball", "blue cube"]),
        ("a cup, a plate, and two forks", "1,1,1", ["a cup", "a plate", "two forks"]),
        ("a black and white cat and a dog", "1,1", ["a black and white cat", "a dog"]),
        ("a ball on the right and a cube on the left", "1,1", ["a cube", "a ball"]),
        ("a mug to the left of a duck", "1,1", ["a mug", "a duck"]),
        ("a mug right of a duck", "1,1", ["a duck", "a mug"]),
        ("a mug next to a duck and a car", "1,1,1", ["a mug", "a duck", "a car"]),
        ("a red ball on top of a blue cube", "1;1", ["a red ball", "a blue cube"]),
        ("a table under a lamp", "1;1", ["a lamp", "a table"]),
        (
            "a red ball and a blue cube on a table", "1,1,1;1,1",
            ["a red ball", "a blue cube", "a table"],
        ),
    ],
)  # fmt: skip
def test_rules_read_what_is_where(prompt: str, split: str, regions: list[str]) -> None:
    assert by_rules(prompt) == split_plan(prompt, split, regions)


def test_background_and_view_belong_to_every_region() -> None:
    prompt = "a red ball and a blue cube on a grey background, front view"
    assert [r.prompt for r in by_rules(prompt).regions] == [
        "a red ball on a grey background, front view",
        "a blue cube on a grey background, front view",
    ]


# language models


def test_an_answer_ends_with_two_lines() -> None:
    answer = """Let me think. Final split ratio: 1 would be too simple.
    **Final split ratio:** 1,1;2,1,1
    Regional Prompt: a blue sky BREAK a red ball  BREAK a cube"""
    assert read_answer("p", answer) == split_plan(
        "p", "1,1;2,1,1", ["a blue sky", "a red ball", "a cube"]
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "no line 'Final split ratio"),
        ("I cannot draw.", "no line 'Final split ratio.*it ends: 'I cannot draw"),
        ("Final split ratio: 1,1", "no line 'Regional Prompt"),
        ("Final split ratio: left\nRegional Prompt: a", "no plan: .*'left'"),
        ("Final split ratio: 1,1\nRegional Prompt: a", "2 regions, and there are 1 prompts"),
        ("Final split ratio: 1,1\nRegional Prompt: a BREAK ", "has no prompt"),
        ("Final split ratio: 1,-1\nRegional Prompt: a BREAK b", "numbers above 0"),
        ("Final split ratio: " + ",".join("1" * 99) + "\nRegional Prompt: a", "more than 16"),
    ],
)
def test_answers_that_are_no_plan_are_refused(answer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_answer("p", answer)


Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """A server on this machine that answers as it is told; what it was sent is in `sent`."""
    servers: list[HTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = {"path": self.path, "key": self.headers.get("Authorization"),
                           **json.loads(body)}  # fmt: skip
                status, data = answer(request)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def says(text: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_an_endpoint_is_asked_and_its_answer_read(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        sent.append(request)
        return 200, says("Final split ratio: 1,2\nRegional Prompt: a cup BREAK a hat")

    monkeypatch.setenv(planners.KEY, "secret")
    plan = find_planner(f"{serve(answer)}#small-model")("a cup and a hat")
    assert plan == split_plan("a cup and a hat", "1,2", ["a cup", "a hat"])
    assert sent[0]["path"] == "/v1/chat/completions"
    assert (sent[0]["key"], sent[0]["model"]) == ("Bearer secret", "small-model")
    assert sent[0]["messages"][0]["content"].endswith("The caption: a cup and a hat")


@pytest.mark.parametrize(
    ("status", "data", "message"),
    [
        (401, b"wrong key", r"refuses \(401\): wrong key"),
        (200, b"<html>", "does not answer like OpenAI"),
        (200, b'{"choices": []}', "does not answer like OpenAI"),
        (200, says(None), "does not answer like OpenAI"),
        (200, says("Nothing to see here."), "no line 'Final split ratio"),
    ],
)
def test_endpoints_that_answer_nonsense(
    serve: Callable[[Answer], str], status: int, data: bytes, message: str
) -> None:
    url = serve(lambda _: (status, data))
    with pytest.raises(InputError, match=message):
        find_planner(f"{url}#m")("a cup")


def test_endpoints_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"http://127.0.0.1:1/chat/completions cannot be reached"):
        endpoint("http://127.0.0.1:1", "m")("a cup")
    with pytest.raises(InputError, match=r"http://a:port/v1/chat.+ cannot be reached: nonnumeric"):
        find_planner("http://a:port/v1#m")("a cup")
    with pytest.raises(InputError, match=r"say which model after a #, such as http://a/v1#gpt-4o"):
        find_planner("http://a/v1")


def test_a_local_model_is_asked_and_its_nonsense_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<end>": 0, "a": 1, "cup": 2}, unk_token="<end>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="<end>"
    ).save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=1, n_positions=1024,
                        bos_token_id=0, eos_token_id=0)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the planner's answer has no line"):
        find_planner(str(tmp_path))("a cup")


def test_a_local_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no language model '.*nowhere' that plans"):
        find_planner(str(tmp_path / "nowhere"))


def test_a_plan_has_regions() -> None:
    with pytest.raises(InputError, match="1 to 16 regions, got 0"):
        Plan("p", ())
