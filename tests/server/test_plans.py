"""Named plans as precisions of a server: chosen in every place, served to the bit, told, counted and bounded."""

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from bitgear_client import BadParameter, Client, PrecisionNotOffered
from hypothesis import given
from hypothesis import strategies as st

from bitgear import reference
from bitgear.checkpoint import Master, rewrite_master, write_master
from bitgear.plans import mean_bits
from bitgear.tasks.classify import predictions
from server import answers
from server.errors import BadParameter as BoundsContradict
from server.errors import WidthNotOffered
from server.ladder import Ladder, positions
from server.measurement import Line, Times, measured_ladder
from server.policies.fixed import Fixed
from server.policies.lookahead import LookAhead
from server.policies.slackfit import SlackFit
from server.policy import Choice, Load, Waiting, admit, explain
from server.precision import Wish
from server.profiles import Profile
from server.refresh import Refresh
from server.settings import DEFAULT_MARGIN
from tests.masters import named_plan, tiny_master
from tests.server.ladders import ladder_of, plan_rung, with_plans
from tests.server.test_metrics import families, total
from tests.serving import Running, pixels, png, running

CLASSIFY = "/v1/models/planned/classify"
INFER = "/v2/models/planned/infer"
ADMIN = {"X-Api-Key": "the admin key"}


def planned_master(seed: int = 0) -> Master:
    """A master with two plans that have batch norms of their own, and one without, whose accuracy is not known."""
    master = tiny_master(seed, name="planned")
    return master.with_plans(
        [named_plan(master, "mixed-a", 1), named_plan(master, "mixed-b", 2), named_plan(master, "blind", 3, own=False)]
    )


MASTER = planned_master()
NAMES = [each.name for each in MASTER.plans]
LISTED = [8, 7, 6, 5, 4, 3, 2, "blind", "mixed-a", "mixed-b"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("planned"), further=(MASTER,)) as server:
        yield server


def logits(master: Master, precision: str, seed: int = 0) -> np.ndarray:
    codes = master.input.encode(pixels(seed)[None])
    return reference.run(master, codes, master.plan(precision))


def asked(server: Running, place: str, precision: str) -> httpx.Response:
    encoded = base64.b64encode(png()).decode()
    match place:
        case "header":
            return server.client.post(CLASSIFY, content=png(), headers={"Precision": precision})
        case "query":
            return server.client.post(CLASSIFY, content=png(), params={"precision": precision})
        case "multipart":
            return server.client.post(CLASSIFY, files={"image": png()}, data={"precision": precision})
        case "json":
            return server.client.post(CLASSIFY, json={"image": encoded, "precision": precision})
        case _:
            tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]}
            return server.client.post(INFER, json={"inputs": [tensor], "parameters": {"precision": precision}})


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["header", "query", "multipart", "json"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_served_wherever_it_is_asked_for(server: Running, name: str, place: str) -> None:
    answer = asked(server, place, name)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    answers.ClassifyAnswer.model_validate(body)
    assert body["precision"] == {"requested": name, "served": name, "source": "request", "reason": "asked"}
    assert (answer.headers["precision"], answer.headers["precision-source"]) == (name, "request")
    expected = predictions(logits(MASTER, name)[0], MASTER.labels, 5)
    assert [each["class_id"] for each in body["predictions"]] == [each.class_id for each in expected]
    assert [each["confidence"] for each in body["predictions"]] == [each.confidence for each in expected]


@pytest.mark.parametrize("name", [*NAMES, "8", "3"])
def test_what_is_served_equals_the_reference_bit_for_bit(server: Running, name: str) -> None:
    images = [base64.b64encode(png(seed)).decode() for seed in range(4)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [4], "data": images}
    body = {"inputs": [tensor], "outputs": [{"name": "output"}], "parameters": {"precision": name}}
    answer = server.client.post(INFER, json=body).json()
    assert answer["parameters"]["precision"] == answer["parameters"]["precision_requested"] == name
    (output,) = answer["outputs"]
    got = np.float32(output["data"]).reshape(output["shape"])
    np.testing.assert_array_equal(got, np.concatenate([logits(MASTER, name, seed) for seed in range(4)]))


def test_plans_with_a_batch_norm_of_their_own_are_not_served_without_it() -> None:
    bare = dataclasses.replace(MASTER, plans=tuple(dataclasses.replace(p, batch_norm=None) for p in MASTER.plans))
    differs = [not np.array_equal(logits(MASTER, name), logits(bare, name)) for name in NAMES]
    assert differs == [True, True, False]


@pytest.mark.parametrize("place", ["header", "query", "multipart", "json", "v2"])
def test_an_unknown_plan_is_refused_with_what_there_is(server: Running, place: str) -> None:
    answer = asked(server, place, "mixed-z")
    document = server.refused(answer, 422, "width-not-offered", offered_precisions=LISTED)
    assert all(name in document["detail"] for name in NAMES)


def test_no_label_is_made_of_what_a_client_asks_for(server: Running) -> None:
    for i in range(20):
        assert asked(server, "header", f"made-up-{i}").status_code == 422
    asked(server, "header", "mixed-a")
    metrics = families(server)
    assert total(metrics, "bitgear_served", model="planned", precision="mixed-a", reason="asked") >= 1
    assert total(metrics, "bitgear_requests", model="planned", precision="mixed-a", code="200") >= 1
    assert total(metrics, "bitgear_batch_size", "_count", model="planned", precision="mixed-a") >= 1
    known = {*MASTER.precisions, "none"}
    for family in metrics.values():
        for sample in family.samples:
            assert {sample.labels.get(label, "none") for label in ("precision", "from", "to")} <= known


def test_models_and_ladders_tell_of_plans(server: Running) -> None:
    asked(server, "header", "mixed-b")
    model = server.client.get("/v1/models/planned").json()
    answers.ModelDetail.model_validate(model)
    answers.Ladder.model_validate(server.client.get("/v1/models/planned/ladder").json())
    assert model["precisions"] == LISTED
    assert model["default_precision"] == 8
    assert model["accuracy"]["mixed-a"] == {"top1": 0.6, "images": 100}
    assert "blind" not in model["accuracy"]
    rungs = {rung["precision"]: rung for rung in server.client.get("/v1/models/planned/ladder").json()["rungs"]}
    assert set(rungs) == set(model["precisions"])
    for name in NAMES:
        assert rungs[name]["mean_bits"] == round(mean_bits(MASTER.graph, MASTER.plan(name)), 4)
        assert rungs[name]["offered"]
    assert rungs[4]["mean_bits"] == 4
    assert (rungs["mixed-a"]["top1"], rungs["blind"]["top1"]) == (0.6, None)
    assert rungs["blind"]["pruned"] == "its accuracy is not known"
    assert rungs["mixed-b"]["batch_ms"]["per_image"] > 0
    assert rungs["mixed-b"]["latency_ms"]["count"] >= 1
    described = server.client.get("/v2/models/planned").json()["parameters"]["precisions"]
    assert described == ",".join(map(str, LISTED))


def test_precisions_are_listed_alike_whatever_is_measured(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {str(bits): Line(1.0, float(bits)) for bits in MASTER.widths}
    served = server.app.state.runtime.models.get("planned")
    for blind_ms, fast_ms in ((9.0, 2.2), (2.2, 9.0)):
        plans = {"mixed-a": Line(1.0, 4.5), "mixed-b": Line(1.0, fast_ms), "blind": Line(1.0, blind_ms)}
        monkeypatch.setattr(served, "start", measured_ladder(MASTER, Times(lines | plans, 1.2), 8))
        assert server.client.get("/v1/models/planned").json()["precisions"] == LISTED
        assert asked(server, "header", "mixed-z").json()["offered_precisions"] == LISTED
        rungs = server.client.get("/v1/models/planned/ladder").json()["rungs"]
        assert [rung["precision"] for rung in rungs] == [rung.said for rung in served.ladder.rungs] != LISTED


def test_bounds_are_of_the_mean_width(server: Running) -> None:
    bits = mean_bits(MASTER.graph, MASTER.plan("mixed-a"))
    floor, ceiling = int(bits) + 1, int(bits)

    def ask(**controls: object) -> httpx.Response:
        return server.client.post(CLASSIFY, content=png(), params={"precision": "mixed-a", **controls})

    assert ask(precision_min=ceiling, precision_max=floor).status_code == 200
    document = server.refused(ask(precision_min=floor), 400, "bad-parameter", parameter="precision_min")
    assert f"{bits:.2f} bits in the mean" in document["detail"]
    server.refused(ask(precision_max=ceiling), 400, "bad-parameter", parameter="precision_max")
    answer = ask(device_profile="edge-small")  # up to 4 bits
    assert answer.status_code == (200 if bits <= 4 else 422)


@pytest.mark.parametrize("place", ["header", "json"])
def test_a_pinned_width_outside_its_own_bounds(server: Running, place: str) -> None:
    for name, bound in (("precision_min", 6), ("precision_max", 3)):
        answer = server.client.post(CLASSIFY, content=png(), params={"precision": 4, name: bound})
        server.refused(answer, 400, "bad-parameter", parameter=name)


def test_the_client_speaks_of_plans(server: Running) -> None:
    url = str(server.client.base_url)
    with Client(url) as client:
        result = client.classify(pixels(), "planned", precision="mixed-a")
        assert (result.precision.requested, result.precision.served) == ("mixed-a", "mixed-a")
        with pytest.raises(PrecisionNotOffered) as refused:
            client.classify(pixels(), "planned", precision="mixed-z")
        assert set(refused.value.offered_precisions) == {*MASTER.widths, *NAMES}
        with pytest.raises(BadParameter):
            client.classify(pixels(), "planned", precision="Mixed Z")
        assert set(client.model("planned").precisions) == {*MASTER.widths, *NAMES}
        assert client.model("planned").accuracy["mixed-b"]["top1"] == 0.6
        rung = next(each for each in client.ladder("planned").rungs if each.precision == "mixed-a")
        assert rung.batch_fixed_ms + rung.batch_image_ms > 0
        assert rung.latency is not None


def test_plans_that_are_added_are_measured_and_served(tmp_path: Path) -> None:
    path, ladders = tmp_path / "planned.safetensors", tmp_path / "ladders"
    write_master(dataclasses.replace(MASTER, plans=()), path)
    settings = {"measure_s": 0.01, "ladders": ladders, "admin_key": ADMIN["X-Api-Key"]}
    with running(tmp_path, files=(path,), **settings) as server:
        before = server.client.get("/v1/models/planned").json()
        assert before["precisions"] == list(MASTER.widths)
        rewrite_master(path, lambda stored: stored.with_plans(MASTER.plans[:1]))
        assert server.client.post("/v2/repository/models/planned/load", headers=ADMIN).status_code == 200
        after = server.client.get("/v1/models/planned").json()
        assert set(after["precisions"]) == {*MASTER.widths, "mixed-a"}
        assert after["version"] != before["version"]
        assert asked(server, "header", "mixed-a").json()["precision"]["served"] == "mixed-a"
        rewrite_master(path, lambda stored: dataclasses.replace(stored, plans=()))
        server.client.post("/v2/repository/models/planned/load", headers=ADMIN)
        assert asked(server, "header", "mixed-a").status_code == 422
    rewrite_master(path, lambda stored: stored.with_plans(MASTER.plans))
    kept = set(ladders.rglob("*.json"))
    with running(tmp_path, files=(path,), **settings) as server:
        rungs = server.client.get("/v1/models/planned/ladder").json()["rungs"]
        assert {rung["precision"] for rung in rungs} == {*MASTER.widths, *NAMES}
        (new,) = (json.loads(file.read_text()) for file in set(ladders.rglob("*.json")) - kept)
        assert set(new["lines"]) == {*map(str, MASTER.widths), *NAMES}
        # what is kept is read at the next start
        stored = {rung["precision"]: rung["batch_ms"]["per_image"] for rung in rungs}
    with running(tmp_path, files=(path,), **settings) as server:
        rungs = server.client.get("/v1/models/planned/ladder").json()["rungs"]
        assert {rung["precision"]: rung["batch_ms"]["per_image"] for rung in rungs} == stored
    (file,) = set(ladders.rglob("*.json")) - kept
    del new["lines"]["mixed-a"]  # a file that lacks one is no ladder of this master
    file.write_text(json.dumps(new))
    with running(tmp_path, files=(path,), **settings) as server:
        assert asked(server, "header", "mixed-a").status_code == 200
    assert "mixed-a" in json.loads(file.read_text())["lines"]


def test_one_plan_may_be_what_is_served_without_asking(tmp_path: Path) -> None:
    with running(tmp_path, further=(MASTER,), policy="fixed-mixed-a") as server:
        answer = server.client.post(CLASSIFY, content=png()).json()["precision"]
        assert answer == {"requested": "auto", "served": "mixed-a", "source": "policy", "reason": "default"}
        assert server.good()["precision"]["served"] == 8  # a model without that plan


# -- ladders ----------------------------------------------------------------------------------------------------------


def test_a_measured_ladder_has_plans_where_their_time_puts_them() -> None:
    lines = {str(bits): Line(1.0, float(bits)) for bits in MASTER.widths}
    lines |= {"mixed-a": Line(1.0, 4.5), "mixed-b": Line(1.0, 2.2), "blind": Line(0.5, 9.0)}
    ladder = measured_ladder(MASTER, Times(lines, 1.2), 8)
    assert [rung.precision for rung in ladder.rungs] == [*"8", "blind", *"765", "mixed-a", *"43", "mixed-b", "2"]
    assert ladder.rungs[5].latency_ms(2) == pytest.approx(1.2 * 10)
    assert ladder.rungs[5].plan == MASTER.plan("mixed-a")
    assert [rung.accuracy for rung in ladder.rungs if rung.is_mixed] == [0.0, 0.6, 0.6]


def test_a_ladder_that_follows_the_device_keeps_its_rungs_in_place() -> None:
    lines = {rung.precision: Line(rung.fixed_ms, rung.per_image_ms) for rung in SOME.rungs}
    refresh = Refresh(SOME, Times(lines, 1.0))
    for i in range(300):
        refresh.observe("mixed", 1 + i % 8, 2.0 * lines["mixed"].at(1 + i % 8))
        refresh.observe("8", 1 + i % 8, lines["8"].at(1 + i % 8))
    assert refresh.ladder is not SOME
    assert [rung.precision for rung in refresh.ladder.rungs] == [rung.precision for rung in SOME.rungs]
    assert "mixed" in {rung.precision for rung in refresh.ladder.rungs if rung.pruned}


# -- what is allowed and chosen ---------------------------------------------------------------------------------------

SOME = with_plans(
    ladder_of({8: (10.0, 0.92), 4: (7.0, 0.91), 2: (4.0, 0.88)}), plan_rung("mixed", 3.25, 5.5, 0.9)
)  # 8, 4, mixed, 2
PLAIN = Profile(name="plain")


def allowed(wish: Wish, profile: Profile = PLAIN, ladder: Ladder = SOME) -> list[str]:
    admission = admit(wish, ladder, profile)
    assert next(positions(admission.allowed)) == admission.preferred
    return [ladder.rungs[index].precision for index in positions(admission.allowed)]


@pytest.mark.parametrize(
    ("wish", "profile", "expected"),
    [
        (Wish("mixed"), PLAIN, ["mixed"]),
        (Wish("mixed", lenient=True), PLAIN, ["mixed", "2"]),
        (Wish("4", lenient=True), PLAIN, ["4", "mixed", "2"]),
        (Wish("8", floor=3, lenient=True), PLAIN, ["8", "4", "mixed"]),
        (Wish(), PLAIN, ["8", "4", "mixed", "2"]),
        (Wish(floor=3), PLAIN, ["8", "4", "mixed"]),
        (Wish(floor=4), PLAIN, ["8", "4"]),
        (Wish(ceiling=4), PLAIN, ["4", "mixed", "2"]),
        (Wish(ceiling=3), PLAIN, ["2"]),
        (Wish(floor=3, ceiling=3), PLAIN, None),
        (Wish(floor=3, ceiling=4), Profile(name="p", default=2), ["mixed"]),
        (Wish(), Profile(name="p", default=3), ["8", "4", "mixed", "2"]),
        (Wish("mixed"), Profile(name="p", ceiling=3), None),
        (Wish("mixed"), Profile(name="p", floor=4), None),
    ],
)
def test_what_a_wish_allows(wish: Wish, profile: Profile, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(WidthNotOffered):
            allowed(wish, profile)
    else:
        assert allowed(wish, profile) == expected


def test_a_default_that_a_plan_beats_gives_way_to_it() -> None:
    ladder = with_plans(
        ladder_of({8: (10.0, 0.92), 4: (7.0, 0.91), 2: (4.0, 0.88)}), plan_rung("better", 3.9, 6.5, 0.915)
    )
    admission = admit(Wish(), ladder, Profile(name="p", default=4))
    assert ladder.rungs[admission.preferred].precision == "better"
    assert (admission.source, admission.reason) == ("profile", "pruned")
    assert allowed(Wish("4"), ladder=ladder) == ["4"]
    assert allowed(Wish("4", lenient=True), ladder=ladder)[0] == "4"


def test_a_faster_plan_of_more_bits_is_out_of_a_lenient_wish_s_bounds() -> None:
    ladder = with_plans(
        ladder_of({8: (10.0, 0.92), 4: (7.0, 0.9), 2: (4.0, 0.88)}), plan_rung("mixed-4.4", 4.4, 6.5, 0.91)
    )
    assert allowed(Wish("4", lenient=True), ladder=ladder) == ["4", "mixed-4.4", "2"]
    assert allowed(Wish("4", ceiling=4, lenient=True), ladder=ladder) == ["4", "2"]


def test_of_precisions_of_one_mean_width_the_more_accurate_is_nearest_to_a_bound() -> None:
    widths = ladder_of({8: (10.0, 0.92), 4: (7.0, 0.91), 3: (6.0, 0.9), 2: (4.0, 0.88)})
    better = with_plans(widths, plan_rung("mixed-3.0", 3.0, 5.5, 0.905, fixed_share=0.0))
    assert allowed(Wish(ceiling=3), ladder=better) == ["mixed-3.0", "2"]
    assert allowed(Wish(floor=3), Profile(name="p", default=2), better) == ["mixed-3.0"]
    worse = with_plans(widths, plan_rung("mixed-3.0", 3.0, 5.5, 0.89))
    assert allowed(Wish(ceiling=3), ladder=worse) == ["3", "mixed-3.0", "2"]


def test_a_server_at_rest_serves_what_bounds_give_even_if_a_plan_further_down_is_more_accurate() -> None:
    ladder = with_plans(
        ladder_of({8: (10.0, 0.92), 4: (7.0, 0.9), 2: (4.0, 0.88)}),
        plan_rung("mixed-3.5", 3.5, 6.9, 0.91, fixed_share=0.0),  # slower in batches
    )
    admission = admit(Wish(ceiling=4), ladder, PLAIN)
    assert allowed(Wish(ceiling=4), ladder=ladder) == ["4", "mixed-3.5", "2"]
    dispatch = LookAhead(DEFAULT_MARGIN).dispatch(ladder, Load(100.0, (Waiting(100.1, admission.allowed),)))
    assert explain(admission, dispatch.rung, dispatch.reason) == Choice(1, "request", "ceiling")


def load_of(slack_ms: float, count: int = 1) -> Load:
    waiting = Waiting(100.0 + slack_ms / 1000, SOME.all_rungs, hard=True)
    return Load(100.0, (waiting,) * count)


def test_policies_take_plans_between_the_widths() -> None:
    chosen = [LookAhead(margin=0).dispatch(SOME, load_of(slack_ms)) for slack_ms in (12, 8, 6, 4.5)]
    assert [SOME.rungs[each.rung].precision for each in chosen] == ["8", "4", "mixed", "2"]
    backlog = LookAhead(margin=0).dispatch(SOME, load_of(56, 16))
    assert SOME.rungs[backlog.rung].precision == "mixed"
    pairs = {SOME.rungs[SlackFit(0).dispatch(SOME, load_of(ms, 9)).rung].precision for ms in np.linspace(4, 60, 200)}
    assert "mixed" in pairs
    assert Fixed("mixed").dispatch(SOME, load_of(100)).rung == 2


RUNGS = st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1), st.floats(2, 8)), max_size=5)
WIDTH = st.integers(2, 8)


@given(
    st.dictionaries(WIDTH, st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1),
    RUNGS,
    st.tuples(WIDTH, WIDTH, WIDTH).map(sorted),
    st.none() | WIDTH,
    st.none() | WIDTH,
    st.integers(0, 12),
    st.booleans(),
)
def test_whatever_is_asked_stays_within_its_bounds(
    times: dict[int, tuple[float, float]],
    plans: list[tuple[float, float, float]],
    bounds: list[int],
    floor: int | None,
    ceiling: int | None,
    pinned: int,
    lenient: bool,
) -> None:
    widths = ladder_of(dict(sorted(times.items(), reverse=True)))
    made = [plan_rung(f"p{i}", bits, time_ms, accuracy) for i, (time_ms, accuracy, bits) in enumerate(plans)]
    ladder = with_plans(widths, *made)
    profile = Profile(name="p", default=bounds[1], floor=bounds[0], ceiling=bounds[2])
    name = ladder.rungs[pinned].precision if pinned < len(ladder.rungs) else None
    wish = Wish(name, floor, ceiling, lenient=lenient)
    try:
        admission = admit(wish, ladder, profile)
    except (WidthNotOffered, BoundsContradict):
        return
    assert next(positions(admission.allowed)) == admission.preferred
    if name is not None:
        assert ladder.rungs[admission.preferred].precision == name
    for index in positions(admission.allowed):
        rung = ladder.rungs[index]
        assert profile.floor <= rung.mean_bits <= profile.ceiling
        assert (floor or 2) <= rung.mean_bits <= (ceiling or 8)
