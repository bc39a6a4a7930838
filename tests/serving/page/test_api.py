"""What the page's routes answer is what gpt2.inspection finds, within bounds."""

import base64
import json
import re
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from gpt2 import GPT2
from gpt2.checkpoint.snapshots import list_snapshots
from gpt2.inspection import ablate, effect, embedding_map, head_kinds, neighbours, run
from gpt2.inspection.interventions import Intervention
from gpt2.serving.app import create_app
from gpt2.serving.looking import Ask, Looker, tiles
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings

TEXT = "Once upon a time there was a little dog."


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def refused(address: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(address, path, body)
    return caught.value.code, caught.value.read().decode()


def test_the_page_brings_what_the_server_says_of_itself_to_those_who_may_know(served: ServedModel) -> None:
    """A name like markup stays text; who has no key yet gets the page without it."""
    named = ServedModel("</script><b>", served.folder, served.model, served.tokenizer, served.device)
    told = []
    for settings in (ServeSettings(), ServeSettings(api_key="secret")):
        client = TestClient(create_app(named, settings), base_url="http://127.0.0.1")
        page = client.get("/")
        told.append(re.findall(r'<script type="application/json" id="about">(.*?)</script>', page.text))
        again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
        assert again.status_code == 304
        assert page.headers["X-Process"] == again.headers["X-Process"]
    about = TestClient(create_app(named, ServeSettings()), base_url="http://127.0.0.1").get("/api/model")
    assert json.loads(told[0][0]) == about.json()
    assert about.json()["name"] == "</script><b>"
    assert told[1] == []
    assert about.headers["X-Process"] != page.headers["X-Process"]


def test_views_are_the_result_objects(address: str, served: ServedModel) -> None:
    model, tokenizer = served.model, served.tokenizer
    looked = run(model, tokenizer, TEXT)
    expected = {
        "surprise": ({}, looked.surprise()),
        "odds": ({"position": 3, "k": 7}, looked.odds(3, (1.0,), 7)),
        "lens": ({"k": 2}, looked.logit_lens(2)),
        "attribution": ({"unit": "head", "target": 5, "position": 2}, looked.dla(5, unit="head", position=2)),
        "attention": ({"layer": 1, "head": 1}, looked.attention(1, 1)),
        "head": ({"layer": 1, "head": 0, "position": 4}, looked.head(1, 0, 4)),
        "residual": ({}, looked.residual_norms()),
        "kinds": ({}, head_kinds(model, tokenizer)),
        "neighbours": ({"target": 300, "k": 5}, neighbours(model, tokenizer, 300, 5)),
        "words": ({"k": 20}, embedding_map(model, tokenizer, count=20)),
    }
    for name, (options, result) in expected.items():
        found = ask(address, f"look/{name}", {"text": TEXT, **options})
        assert found == json.loads(json.dumps(result.to_json())), name
        assert found["check"]["ok"], name


def test_logits_and_tiles_are_the_model_s(address: str, served: ServedModel) -> None:
    looked = run(served.model, served.tokenizer, TEXT)
    found = ask(address, "logits", {"text": TEXT, "position": 5})
    values = torch.frombuffer(bytearray(base64.b64decode(found["logits"])), dtype=torch.float32)
    assert torch.equal(values, looked.logits[5])
    found = ask(address, "atlas", {"text": TEXT})
    time = len(looked.tokens)
    painted = torch.frombuffer(bytearray(base64.b64decode(found["tiles"])), dtype=torch.uint8).view(2, 2, time, time)
    assert (painted / 255 - looked.attention().patterns).abs().max() <= 0.5 / 255 + 1e-6


def test_logits_of_a_padded_vocabulary_are_all_there(served: ServedModel) -> None:
    """Ids without a token have a share too, and the page's softmax must be the model's."""
    config = replace(served.model.config, vocab_size=576)
    model = GPT2(config, generator=torch.Generator().manual_seed(0)).eval()
    padded = ServedModel("padded", None, model, served.tokenizer, torch.device("cpu"))
    with TestClient(create_app(padded, ServeSettings()), base_url="http://127.0.0.1") as client:
        found = client.post("/api/logits", json={"text": TEXT}).json()
    values = torch.frombuffer(bytearray(base64.b64decode(found["logits"])), dtype=torch.float32)
    assert torch.equal(values, run(model, served.tokenizer, TEXT).logits[-1])
    assert len(values) == 576 > served.tokenizer.vocab_size > 0
    assert max(found["odds"]["ids"]) >= served.tokenizer.vocab_size


def test_tiles_of_a_long_text_keep_what_is_thin() -> None:
    pattern = torch.zeros(1, 1, 200, 200)
    pattern[0, 0, 177, 3] = 1.0
    small = tiles(pattern)
    assert small.shape == (1, 1, 50, 50)
    assert small[0, 0, 44, 0] == 255
    assert small.sum() == 255


def test_tokens_join_to_the_text(address: str) -> None:
    text = "Ein Käse 🧀 <|endoftext|>\n<img src=x onerror=alert(1)>"
    found = ask(address, "tokens", {"text": text})
    assert "".join(found["pieces"]) == text
    assert len(found["pieces"]) == len(found["ids"]) == len(found["tokens"])


def test_a_snapshot_is_looked_at_instead(address: str, served: ServedModel) -> None:
    about = ask(address, "model")
    steps = [item["step"] for item in about["snapshots"]]
    assert len(steps) == 4
    assert steps[0] == 0
    before = served.model.transformer.wte.weight.detach().clone()
    found = ask(address, "look/surprise", {"text": TEXT, "snapshot": 0})
    model, _ = served.model.__class__(served.model.config).eval(), None
    assert served.folder is not None
    list_snapshots(served.folder / "training" / "snapshots")[0].load_into(model)
    assert found["loss"] == pytest.approx(run(model, served.tokenizer, TEXT).loss, rel=1e-6)
    assert torch.equal(served.model.transformer.wte.weight, before)
    status, words = refused(address, "look/surprise", {"text": TEXT, "snapshot": 5000})
    assert status == 400
    assert "no snapshot of step 5,000" in words


def test_what_is_taken_out_is_what_python_takes_out(address: str, served: ServedModel) -> None:
    off = {"0.1": ablate(head=(0, 1)), "mlp.1": ablate(mlp=1), "token.2": ablate("embed", position=2),
           "positions": ablate("pos_embed")}  # fmt: skip
    found = ask(address, "look/effect", {"text": TEXT, "off": list(off)})
    looker = Looker(served)
    mine = effect(served.model, served.tokenizer, TEXT, list(off.values()), looker.texts()).to_json()
    assert found == json.loads(json.dumps(mine))
    assert found["check"]["residual"] == 0
    assert found["loss_before"] != found["loss_after"]


def test_means_are_those_of_ablate(served: ServedModel) -> None:
    looker = Looker(served)
    mine = looker.taken_out(Ask(text=TEXT, off=["1.0", "attn.0"], how="mean"))
    theirs: list[Intervention] = [ablate(head=(1, 0), how="mean"), ablate(attn=0, how="mean")]
    first, second = (run(served.model, served.tokenizer, TEXT, do=do) for do in (mine, theirs))
    assert torch.allclose(first.logits, second.logits, atol=1e-5)
    assert first.meta["interventions"] == second.meta["interventions"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("look/surprise", {"text": "x" * 20_001}, 400),
        ("look/surprise", {"text": "a b " * 400}, 400),
        ("look/odds", {"text": TEXT, "position": 99}, 400),
        ("look/head", {"text": TEXT, "layer": 7}, 400),
        ("look/nothing", {"text": TEXT}, 404),
        ("look/effect", {"text": TEXT, "off": ["__import__"]}, 400),
        ("look/effect", {"text": TEXT, "off": ["9.9"]}, 400),
        ("look/effect", {"text": TEXT, "off": ["mlp.9"], "how": "mean"}, 400),
        ("look/effect", {"text": TEXT, "off": ["token.60"]}, 400),
        ("look/surprise", {"text": TEXT, "unknown": 1}, 400),
        ("continue", {"text": TEXT, "length": 10_000}, 400),
        ("look/neighbours", {"target": "two words"}, 400),
    ],
)
def test_out_of_bounds_is_an_error(address: str, path: str, body: dict[str, Any], status: int) -> None:
    assert refused(address, path, body)[0] == status


def test_a_snapshot_goes_on(address: str, served: ServedModel) -> None:
    body = {"text": "Once", "snapshot": 12, "length": 8, "temperature": 0.0}
    found = ask(address, "continue", body)
    assert len(found["ids"]) <= 8
    assert found == ask(address, "continue", body)


def test_the_record_of_the_run(address: str) -> None:
    found = ask(address, "history")
    assert [p["step"] for p in found["valid"]][-1] == 12
    assert found["samples"][-1]["step"] == 12
    assert found["samples"][-1]["text"]
    assert not found["running"]
    assert found["train"][0]["step"] == 1
