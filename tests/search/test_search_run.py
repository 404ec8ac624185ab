"""A whole search, from a file and pictures to the file with plans."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("bitgear._native")
pytest.importorskip("scipy.optimize")

from bitgear import reference
from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.engines import create_engine
from bitgear.engines.native import NativeEngine
from bitgear.errors import DataError, EngineUnavailable, PlanInvalid, SearchError
from bitgear.evaluate import Measured, evaluate_master, read_data
from bitgear.fold import batch_norm
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool
from bitgear.plans import MAX_PLANS, BatchNorm, NamedPlan
from bitgear.search import command, run
from bitgear.search.command import SearchRequest, calibration_count, search_and_write
from bitgear.search.costs import Cost
from bitgear.search.pictures import read_pictures
from bitgear.search.report import as_json
from bitgear.search.run import Goal, Method, Quantity, Result, SearchOptions, _Search
from bitgear.search.space import Space
from bitgear.search.timings import Timings, measure_timings
from bitgear.search.trials import Trial, Trials
from tests.masters import named_plan, random_codes, tiny_graph, tiny_master
from tests.task_masters import areas_master, boxes_master
from tests.trainer.dense_data import HEIGHT, WIDTH, write_boxes, write_maps


def request(master: Path, data: Path, options: SearchOptions, **changes: object) -> SearchRequest:
    plain = SearchRequest(
        model=str(master), data=data, options=options, split=None, test_split="test", validate=20, calibrate=8,
        timings=None, replace=False, out=None, report=None, threads=1,
    )  # fmt: skip
    return replace(plain, **changes)


OPTIONS = SearchOptions(
    goals=(Goal(Quantity.MEAN_WIDTH, 5.0),), front=2, widths=(8, 6, 4, 2), trials=6, seconds=0.0
)  # fmt: skip


def save(timings: Timings, path: Path) -> Path:
    path.write_text(json.dumps(timings.to_json()))
    return path


@pytest.fixture
def steady(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Timings that are measured so too, and accuracies: neither the machine nor chance decides what is found.

    The more bits, the slower and the better; plans are better than widths, with a batch norm of their own even more.
    """
    names = [conv.name for conv in tiny_graph().searchable]
    layers = {name: {bits: 0.01 * bits for bits in WIDTHS} for name in names}
    timings = Timings("tiny", NativeEngine().instruction_set, 1, 0.1, layers)

    def measure(_: Trials, plan: Plan, norms: object) -> Measured:
        bits = sum(plan.of(name).weight_bits for name in names)
        top1 = bits / 40 + 0.05 * bool(plan.layers) + 0.05 * (norms is not None)
        return Measured({"top1": top1}, 20, 0.1)

    monkeypatch.setattr(run, "least_ms", lambda models, *_: [timings.predict_ms(model.plan) for model in models])
    monkeypatch.setattr(Trials, "measure", measure)
    return save(timings, tmp_path / "steady.json")


@pytest.mark.parametrize("method", list(Method))
def test_a_search_adds_plans_and_keeps_all_else(
    file: Path, data: Path, steady: Path, method: Method, tmp_path: Path
) -> None:
    before = read_master(file)
    tensors = {name: tensor.tobytes() for name, tensor in before.tensors.items()}
    options = replace(OPTIONS, method=method)
    result = search_and_write(request(file, data, options, timings=steady, report=tmp_path / "report"))
    after = read_master(file)
    assert {name: tensor.tobytes() for name, tensor in after.tensors.items()} == tensors
    assert result.found
    assert {plan.name for plan in after.plans} == {each.name for each in result.found}
    assert len(result.trials) <= 2 * OPTIONS.trials
    for each in result.found:
        assert after.metrics(each.name) == {"top1": each.test.metrics["top1"], "images": 30}
        assert {layer.weight_bits for layer in (each.trial.plan.of(name) for name in result.space.names)} <= {
            8,
            6,
            4,
            2,
        }
        assert each.trial.batch_norm is not None
    check_served(after)
    check_report(result, tmp_path / "report")


def check_served(master: Master) -> None:
    """A plan served equals the reference bit for bit."""
    q_images = random_codes(master, 3)
    for each in master.plans:
        served = create_engine("native").derive(master, each.plan).run(q_images)
        np.testing.assert_array_equal(served, reference.run(master, q_images, each.plan))


def check_report(result: Result, folder: Path) -> None:
    told = json.loads((folder / "plans.json").read_text())
    assert set(told["plans"]) == {each.name for each in result.found}
    assert set(told["uniform"]) == set("8765432")
    assert all(set(plan["layers"]) == set(result.space.names) for plan in told["plans"].values())
    assert all("latency_ms" in row for row in (*told["uniform"].values(), *told["plans"].values()))
    assert told["trials"]
    assert not any("latency_ms" in trial for trial in told["trials"])  # predicted, as all these were: not measured
    page = (folder / "plans.md").read_text()
    for each in result.found:
        assert each.name in page
    for plot in ("plans_latency.png", "plans_width.png", "plans_layers.png"):
        assert f"({plot})" in page
        assert (folder / plot).stat().st_size > 1000


def test_plans_stay_unless_they_are_replaced(
    file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = read_master(file)
    write_master(master.with_plans([named_plan(master, "precious"), named_plan(master, "mixed-4.0")]), file)
    monkeypatch.setattr(_Search, "_best", lambda search, *_: [search.trials.run((8, 4, 2, 2))])
    options, more = replace(OPTIONS, front=0), tmp_path / "more.safetensors"
    (found,) = search_and_write(request(file, data, options, out=more)).found
    assert (found.name, found.reason) == ("mixed-4.0-a", "mean width 5")
    assert {plan.name for plan in read_master(more).plans} == {"precious", "mixed-4.0", "mixed-4.0-a"}
    (found,) = search_and_write(request(file, data, options, replace=True)).found
    assert {plan.name: plan.plan for plan in read_master(file).plans} == {"mixed-4.0": found.trial.plan}


def test_plans_stay_where_nothing_was_found_to_replace_them(
    file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = read_master(file)
    write_master(master.with_plans([named_plan(master, "precious")]), file)
    content = file.read_bytes()
    monkeypatch.setattr(_Search, "_finalists", lambda *_: [])
    result = search_and_write(request(file, data, replace(OPTIONS, goals=()), replace=True))
    assert result.told == [
        "front of time and accuracy: no plans that nothing dominates, 2 were asked for",
        "no plan was found to replace those that the master has, which stay",
    ]
    assert file.read_bytes() == content


def test_a_plan_that_others_add_meanwhile_keeps_its_name(
    file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = NamedPlan("mixed-4.0", Plan(LayerBits(8, 8), (("a.conv1", LayerBits(5, 5)),)))

    def best(search: _Search, *_: object) -> list[Trial]:
        rewrite_master(file, lambda master: master.with_plans([meanwhile]))
        return [search.trials.run((8, 4, 2, 2))]

    monkeypatch.setattr(_Search, "_best", best)
    (found,) = search_and_write(request(file, data, replace(OPTIONS, front=0))).found
    assert {plan.name: plan.plan for plan in read_master(file).plans} == {
        "mixed-4.0": meanwhile.plan, "mixed-4.0-a": found.trial.plan,
    }  # fmt: skip
    assert found.name == "mixed-4.0-a"
    write_master(tiny_master().with_plans([named_plan(tiny_master(), "precious")]), file)
    search_and_write(request(file, data, replace(OPTIONS, front=0), replace=True))
    assert {plan.name for plan in read_master(file).plans} == {"mixed-4.0", "mixed-4.0-a"}
    meanwhile = replace(meanwhile, name="found", plan=found.trial.plan)
    write_master(tiny_master(), file)
    result = search_and_write(request(file, data, replace(OPTIONS, front=0)))
    assert result.told == ["mean width 5: found, which the master has and which stays as it is"]


def test_a_full_master_is_told_before_the_search(file: Path, data: Path) -> None:
    master = read_master(file)
    write_master(master.with_plans([named_plan(master, f"p{i}", own=False) for i in range(MAX_PLANS - 2)]), file)
    with pytest.raises(PlanInvalid, match=r"has 30 plans and up to 3 are wanted.*--replace"):
        search_and_write(request(file, data / "nowhere", OPTIONS))
    with pytest.raises(DataError):  # there is room, but there are no pictures
        search_and_write(request(file, data / "nowhere", OPTIONS, replace=True))


def test_a_limit_of_time_is_kept_by_what_is_measured(
    file: Path, data: Path, steady: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [(8, 4, 4, 4), (4, 4, 4, 8), (8, 4, 4, 2), (8, 2, 2, 2), (8, 8, 8, 2)]
    monkeypatch.setattr(_Search, "_seek", lambda search, _: [search.trials.run(choice) for choice in choices])
    options = replace(OPTIONS, goals=(Goal(Quantity.LATENCY_MS, 0.3),), front=0)
    predicted, found = run.least_ms, []
    for factor in (1.0, 1.05, 2.0):
        monkeypatch.setattr(run, "least_ms", lambda *given, by=factor: [by * ms for ms in predicted(*given)])
        result = search_and_write(request(file, data, options, timings=steady, out=tmp_path / "more.safetensors"))
        found.append([each.trial.choice for each in result.found])
    assert found == [[(8, 4, 4, 4)], [(8, 4, 4, 2)], []]
    assert result.told == ["latency ms 0.3: what was predicted to keep it took 0.48 ms and more"]


@pytest.mark.parametrize("trials", [1, 2])
def test_no_more_plans_are_tried_than_asked_for(
    file: Path, data: Path, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = itertools.islice(itertools.product((8, 2), repeat=4), 1, 15)
    monkeypatch.setattr(run, "candidates", lambda *_: list(itertools.islice(mixed, 2)))  # at each limit of the front
    result = search_and_write(request(file, data, replace(OPTIONS, goals=(), trials=trials)))
    assert len(result.trials) == trials


def tuned(file: Path, name: str) -> Master:
    """The master in a file, rewritten as if one of its plans had been tuned."""
    held = read_master(file)
    plan = next(each for each in held.plans if each.name == name)
    norms = {layer: BatchNorm(norm.gain + np.float16(0.5), norm.bias) for layer, norm in held_norms(held, plan).items()}
    trained = held.with_plans([replace(plan, batch_norm=norms, accuracy={"top1": 0.9, "images": 30})])
    write_master(replace(trained, provenance={**held.provenance, "tuned": {name: {"images": 5}}}), file)
    return read_master(file)


def held_norms(master: Master, plan: NamedPlan) -> dict[str, BatchNorm]:
    return {conv.name: batch_norm(master, conv, plan.plan) for conv in master.graph.convs}


def test_a_plan_that_is_found_again_stays_as_it_was_tuned(
    file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Search, "_best", lambda search, *_: [search.trials.run((8, 4, 2, 2))])
    first = search_and_write(request(file, data, replace(OPTIONS, front=0)))
    (found,) = first.found
    before = tuned(file, found.name)
    again = search_and_write(request(file, data, replace(OPTIONS, front=0)))
    assert not again.found
    assert again.told == [f"mean width 5: {found.name}, which the master has and which stays as it is"]
    after = read_master(file)
    assert after.digest == before.digest
    assert after.provenance["tuned"] == {found.name: {"images": 5}}
    replaced = search_and_write(request(file, data, replace(OPTIONS, front=0), replace=True))
    assert [each.name for each in replaced.found] == [found.name]
    assert "tuned" not in read_master(file).provenance


def test_a_limit_is_kept_to_the_rounding_of_its_sum(file: Path, data: Path) -> None:
    convs = [Conv("stem", IMAGE, 2, 3, padding=1, bits=8)]
    for number in range(20):  # 20 times 2 / 20 is more than 2, as floats have it
        convs.append(Conv(f"c{number:02}", convs[-1].name, 2, 1))
    graph = Graph((*convs, Pool("pool", convs[-1].name), Linear("head", "pool", 10)))
    master = tiny_master(graph=graph)
    space = Space(master, (8, 2))
    assert space.mean_width(space.uniform(2)) > 2
    write_master(master, file)
    options = SearchOptions(goals=(Goal(Quantity.MEAN_WIDTH, 2.0),), widths=(8, 2), trials=1, seconds=0.0)
    result = search_and_write(request(file, data, options))
    assert result.told == ["mean width 2: no plan is better than 2 bits everywhere"]


@pytest.mark.parametrize("quantity", list(Quantity))
def test_a_limit_that_no_plan_keeps_is_named(file: Path, data: Path, quantity: Quantity) -> None:
    content = file.read_bytes()
    with pytest.raises(SearchError, match=str(Goal(quantity, 1e-3))):
        search_and_write(request(file, data, replace(OPTIONS, goals=(Goal(quantity, 1e-3),))))
    assert file.read_bytes() == content


def test_timings_of_other_conditions_are_a_warning_and_of_another_master_an_error(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = measure_timings(read_master(file), NativeEngine(), 0)
    measured = tmp_path / "timings.json"
    save(replace(timings, threads=64), measured)
    found = search_and_write(request(file, data, replace(OPTIONS, front=0), timings=measured))
    assert found.timings.threads == 64
    assert "warning: the timings were measured with threads 64, plans are timed with 1" in capsys.readouterr().err
    save(replace(timings, model="other"), measured)
    with pytest.raises(SearchError, match="'other'"):  # before the pictures are looked for
        search_and_write(request(file, data / "nowhere", OPTIONS, timings=measured))


def test_plans_of_other_test_pictures_than_the_widths_are_told_of(
    file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Search, "_best", lambda search, *_: [search.trials.run((8, 4, 2, 2))])
    options, out = replace(OPTIONS, front=0), tmp_path / "more plans.safetensors"
    result = search_and_write(request(file, data, options, out=out, report=tmp_path / "report"))
    master = read_master(file)
    test = read_data(master, data, "test")
    measured = evaluate_master(master, create_engine("native"), test, [8])[8].metrics["top1"]
    command = f"bitgear evaluate '{out}' --data {data} --store"
    assert as_json(result)["not_comparable"] == {
        "precision": "8", "metric": "top1", "stated": 0.58, "measured": measured, "command": command,
    }  # fmt: skip
    said = capsys.readouterr().err
    for text in (f"8 bits reach top-1 {measured:.2%}", "states 58.00%", command):
        assert text in said
        assert text in (tmp_path / "report" / "plans.md").read_text()
    write_master(master.with_accuracy({"8": {"top1": measured, "images": len(test)}}), file)
    result = search_and_write(request(file, data, options))
    assert result.found
    assert as_json(result)["not_comparable"] is None
    assert "evaluate" not in capsys.readouterr().err


def test_widths_that_take_other_times_than_predicted_are_told_of(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = measure_timings(read_master(file), NativeEngine(), 0)
    measured = save(replace(timings, other_ms=1000.0), tmp_path / "timings.json")
    search_and_write(request(file, data, replace(OPTIONS, front=0), timings=measured))
    assert "bits everywhere were predicted to take 1000 ms and measured to take" in capsys.readouterr().err


def test_the_cost_can_be_measured(file: Path, data: Path) -> None:
    result = search_and_write(request(file, data, replace(OPTIONS, cost=Cost.MEASURED, front=0)))
    assert (result.costs >= 0).all()
    assert result.costs[:, result.space.widths.index(2)].min() > 0


def test_traces_are_needed_for_the_cost_that_uses_them(file: Path, data: Path) -> None:
    with pytest.raises(SearchError, match="traces"):
        search_and_write(request(file, data, replace(OPTIONS, cost=Cost.HESSIAN)))


def test_a_missing_solver_leaves_the_file_alone(file: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = file.read_bytes()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(EngineUnavailable, match=r"extra 'search'"):
        search_and_write(request(file, data / "nowhere", OPTIONS))  # told before anything is read or timed
    assert file.read_bytes() == content


def test_a_missing_plotter_is_told_before_the_search(
    file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EngineUnavailable, match="drawing a report needs bitgear's extra 'search'"):
        search_and_write(request(file, data / "nowhere", OPTIONS, report=tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_pictures_to_choose_by_are_not_those_that_batch_norm_is_fitted_on(data: Path) -> None:
    master = tiny_master()
    pictures = read_pictures(
        master, data, split=None, calibration=20, validation=100, rng=np.random.default_rng(0)
    )  # fmt: skip
    assert pictures.split == "train, not calibrated on"
    assert len(pictures.calibration) == 20
    assert len(pictures.validation) == 40
    fitted = {codes.tobytes() for codes in pictures.calibration}
    chosen = master.input.encode(pictures.validation.images)  # type: ignore[union-attr]
    assert not fitted & {codes.tobytes() for codes in chosen}
    assert calibration_count(master) == 128


def test_pictures_that_all_go_into_batch_norm_leave_none_to_choose_by(data: Path) -> None:
    with pytest.raises(DataError, match="--calibrate"):
        read_pictures(tiny_master(), data, split=None, calibration=60, validation=9, rng=np.random.default_rng(0))


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_dense_tasks_choose_by_their_own_split(task: str, tmp_path: Path) -> None:
    master, write = (areas_master(), write_maps) if task == "segment" else (boxes_master(), write_boxes)
    classes = ("ground", "thing") if task == "segment" else ("red", "blue")
    named = replace(master, labels=classes)
    pictures = read_pictures(
        named, write(tmp_path / "data"), split=None, calibration=5, validation=3, rng=np.random.default_rng(0)
    )  # fmt: skip
    assert pictures.split == "val"
    assert pictures.calibration.shape == (5, 3, 48, 64)
    assert len(pictures.validation) == 3


def test_a_test_split_without_a_labelled_pixel_is_told_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_timings", lambda *_: pytest.fail("searched for what cannot be measured"))
    write_master(areas_master(), tmp_path / "areas.safetensors")
    folder = write_maps(tmp_path / "data")
    (folder / "classes.json").write_text(json.dumps(areas_master().labels))
    for file in (folder / "testannot").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(file)
    with pytest.raises(DataError, match="none of the 4 label maps of split test"):
        search_and_write(request(tmp_path / "areas.safetensors", folder, OPTIONS))
