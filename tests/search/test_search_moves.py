"""Moves of bits between weights and activations."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bitgear._native")

from bitgear import reference
from bitgear.bits import LayerBits, Plan
from bitgear.checkpoint import read_master, rewrite_master, write_master
from bitgear.engines import create_engine
from bitgear.errors import MasterChanged, PlanInvalid, PrecisionNotOffered
from bitgear.graph import Graph
from bitgear.plans import MAX_PLANS, NamedPlan, mean_bits
from bitgear.search import command
from bitgear.search.command import RefineRequest, refine_and_write
from bitgear.search.moves import Refined, refine
from tests.masters import named_plan, random_codes, tiny_graph, tiny_master

LAYERS = ("a", "b", "c")
WIDTHS = (8, 7, 6, 5, 4, 3, 2)


def sensitive(weights: dict[str, float], activations: dict[str, float]) -> Callable[[Plan], float]:
    """What is lost is least if the places of the largest numbers have most bits."""
    return lambda plan: sum(
        weights[name] * 4.0 ** -plan.of(name).weight_bits + activations[name] * 4.0 ** -plan.of(name).act_bits
        for name in LAYERS
    )


def test_bits_go_where_they_do_most_and_the_mean_stays() -> None:
    judge = sensitive({"a": 64, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 4})
    found = refine(Plan.uniform(3), LAYERS, WIDTHS, judge, 500, np.random.default_rng(0))
    assert found.distance < found.start_distance
    assert found.distance == judge(found.plan)
    layers = [found.plan.of(name) for name in LAYERS]
    assert sum(layer.weight_bits + layer.act_bits for layer in layers) == 6 * 3
    by_hand = (("a", LayerBits(5, 2)), ("b", LayerBits(2, 3)), ("c", LayerBits(2, 4)))
    assert found.distance <= judge(Plan(LayerBits(3, 3), by_hand))


def test_equal_seeds_make_equal_moves_and_no_more_are_judged_than_asked_for() -> None:
    judged: list[Plan] = []

    def judge(plan: Plan) -> float:
        judged.append(plan)
        return sensitive({"a": 9, "b": 2, "c": 1}, {"a": 3, "b": 1, "c": 5})(plan)

    first = refine(Plan.uniform(4), LAYERS, WIDTHS, judge, 20, np.random.default_rng(7))
    assert len(judged) == len(set(judged)) == 1 + first.trials == 21
    assert all(plan.widths <= set(WIDTHS) for plan in judged)
    again = refine(Plan.uniform(4), LAYERS, WIDTHS, judge, 20, np.random.default_rng(7))
    assert again == first


def test_where_nothing_can_move_the_start_stays() -> None:
    for start, widths in ((Plan.uniform(8), (8, 7)), (Plan.uniform(4), (8, 4, 2))):
        found = refine(start, LAYERS, widths, lambda _: 1.0, 10, np.random.default_rng(0))
        assert (found.plan, found.trials) == (start, 0)


def test_where_widths_have_gaps_a_move_goes_from_one_to_the_next() -> None:
    judge = sensitive({"a": 64, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 4})
    for start, widths in ((Plan.uniform(4), (8, 6, 4, 2)), (Plan(LayerBits(2, 4)), (8, 4, 2))):
        found = refine(start, LAYERS, widths, judge, 60, np.random.default_rng(0))
        assert found.distance < found.start_distance
        assert found.plan.widths <= set(widths)
        total = sum(layer.weight_bits + layer.act_bits for layer in map(found.plan.of, LAYERS))
        assert total == 3 * (start.default.weight_bits + start.default.act_bits)


def test_no_bits_come_from_how_the_image_is_read() -> None:
    judge = sensitive({"a": 64, "b": 1, "c": 1}, {"a": 0, "b": 1, "c": 4})
    found = refine(Plan.uniform(4), LAYERS, WIDTHS, judge, 200, np.random.default_rng(0), image={"a"})
    assert found.distance < found.start_distance
    assert found.plan.of("a").act_bits == 4
    exact = [Plan(LayerBits(4, 4), (("stem", LayerBits(4, bits)),)) for bits in (2, 8)]
    assert [mean_bits(open_stem(), plan) for plan in exact] == [4, 4]


def open_stem() -> Graph:
    """The tiny graph with the width of its first layer left open."""
    return Graph(tuple(replace(node, bits=None) if node.name == "stem" else node for node in tiny_graph().nodes))


def test_a_first_layer_that_is_open_gives_bits_of_its_weights_alone(file: Path, data: Path) -> None:
    write_master(tiny_master(1, graph=open_stem()), file)
    found = refine_and_write(request(file, data, trials=60))
    assert found.plan is not None
    assert found.plan.plan.of("stem").act_bits == 4


def request(master: Path, data: Path, **changes: object) -> RefineRequest:
    plain = RefineRequest(
        model=str(master), data=data, start="4", name=None, trials=12, split=None, test_split="test", validate=20,
        calibrate=8, seed=1, out=None,
    )  # fmt: skip
    return replace(plain, **changes)


def test_what_is_nearer_is_written_and_served_and_all_else_stays(file: Path, data: Path) -> None:
    before = read_master(file)
    found = refine_and_write(request(file, data))
    assert found.plan is not None
    assert found.refined.distance < found.refined.start_distance
    after = read_master(file)
    (plan,) = after.plans
    assert plan.name == "mixed-4.0"
    assert mean_bits(after.graph, plan.plan) == 4.0
    assert after.metrics("mixed-4.0") == found.plan.accuracy
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], tensor)
    codes = random_codes(after, 3)
    np.testing.assert_array_equal(
        create_engine().derive(after, plan.plan).run(codes), reference.run(after, codes, plan.plan)
    )
    # Once more from there: the plan keeps its name.
    again = refine_and_write(request(file, data, start="mixed-4.0", trials=30, seed=3))
    assert [each.name for each in read_master(file).plans] == ["mixed-4.0"]
    assert again.refined.start_distance <= found.refined.distance * 1.5  # other pictures


def test_a_plan_of_other_test_pictures_than_the_widths_is_told_of(
    file: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refine_and_write(request(file, data))
    said = capsys.readouterr().err
    assert "the master states 58.00%" in said
    assert f"bitgear evaluate {file} --data {data} --store" in said


def test_nothing_nearer_leaves_the_file_alone(file: Path, data: Path) -> None:
    content = file.read_bytes()
    assert refine_and_write(request(file, data, start="8", trials=5)).plan is None
    assert file.read_bytes() == content


def test_another_plan_is_not_replaced_by_its_name(file: Path, data: Path) -> None:
    master = read_master(file)
    write_master(master.with_plans([named_plan(master), named_plan(master, "other")]), file)
    content = file.read_bytes()
    for start in ("4", "other"):
        with pytest.raises(PlanInvalid, match=r"another plan 'mixed-3\.2'.*--start mixed-3\.2"):
            refine_and_write(request(file, data / "nowhere", start=start, name="mixed-3.2"))
    assert file.read_bytes() == content
    found = refine_and_write(request(file, data, start="mixed-3.2", name="mixed-3.2", trials=30))
    assert found.plan is not None
    assert found.plan.name == "mixed-3.2"
    assert {each.name for each in read_master(file).plans} == {"mixed-3.2", "other"}


def test_a_plan_that_is_found_again_stays_and_one_that_is_refined_is_tuned_no_more(
    file: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refine_and_write(request(file, data)).plan
    assert found is not None
    told = {"tuned": {"mixed-4.0": {"images": 5}, "other": {"images": 6}}}
    write_master(replace(read_master(file), provenance=told), file)
    content = file.read_bytes()
    again = refine_and_write(request(file, data, name="more"))
    assert (again.plan, again.held) == (None, "mixed-4.0")
    assert file.read_bytes() == content
    refined = refine_and_write(request(file, data, start="mixed-4.0", trials=40, seed=3))
    assert refined.plan is not None
    assert read_master(file).provenance == {"tuned": {"other": {"images": 6}}}
    assert "mixed-4.0 was tuned" in capsys.readouterr().err


def test_a_full_master_is_told_before_anything_is_tried(file: Path, data: Path) -> None:
    master = read_master(file)
    write_master(master.with_plans([named_plan(master, f"p{i}", own=False) for i in range(MAX_PLANS)]), file)
    with pytest.raises(PlanInvalid, match="has 32 plans and up to 1 are wanted"):
        refine_and_write(request(file, data / "nowhere"))
    assert refine_and_write(request(file, data, start="p3", trials=1)).refined.trials == 1


def test_moves_that_lead_to_a_width_leave_the_file_alone(
    file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = read_master(file)
    start = NamedPlan("start", Plan(LayerBits(4, 4), (("a.conv1", LayerBits(5, 3)),)))
    write_master(master.with_plans([start]), file)
    content = file.read_bytes()
    monkeypatch.setattr(command, "refine", lambda *_, **__: Refined(Plan.uniform(4), 0.1, 0.2, 1))
    found = refine_and_write(request(file, data, start="start"))
    assert (found.plan, found.held) == (None, "4")
    assert file.read_bytes() == content


def test_a_plan_that_others_add_meanwhile_stays(file: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = NamedPlan("mixed-4.0", Plan(LayerBits(8, 8), (("a.conv1", LayerBits(5, 5)),)))
    refined = Plan(LayerBits(4, 4), (("a.conv1", LayerBits(5, 3)),))

    def refine_meanwhile(*_: object, **__: object) -> Refined:
        rewrite_master(file, lambda master: master.with_plans([found]))
        return Refined(refined, 0.1, 0.2, 1)

    monkeypatch.setattr(command, "refine", refine_meanwhile)
    refine_and_write(request(file, data))
    assert {each.name: each.plan for each in read_master(file).plans} == {
        "mixed-4.0": found.plan, "mixed-4.0-a": refined,
    }  # fmt: skip
    found = replace(found, name="mixed-4.0-a", plan=Plan(LayerBits(8, 8), (("a.conv1", LayerBits(6, 6)),)))
    refined = Plan(LayerBits(4, 4), (("a.conv1", LayerBits(3, 5)),))
    with pytest.raises(MasterChanged, match=r"other widths under the name 'mixed-4\.0-a'"):
        refine_and_write(request(file, data, start="mixed-4.0-a"))
    assert found.plan in [each.plan for each in read_master(file).plans]


@pytest.mark.parametrize(
    ("changes", "error"), [({"name": "W8A7"}, PlanInvalid), ({"start": "mixed-9.9"}, PrecisionNotOffered)]
)
def test_names_are_checked_before_anything_is_tried(
    file: Path,
    data: Path,
    changes: dict[str, str],
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        refine_and_write(request(file, data, trials=10**9, **changes))
