"""Named plans: stored and read back equal, their own batch norm obeyed everywhere, and every mistake named."""

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgear import errors, reference
from bitgear.bits import WIDTHS, LayerBits, Plan
from bitgear.checkpoint import Master, read_master, rewrite_master, write_master
from bitgear.describe import as_lines, describe
from bitgear.engines import ENGINE_NAMES, create_engine
from bitgear.engines.registry import native_failure
from bitgear.errors import BitgearError, CheckpointError, GraphError, MasterChanged
from bitgear.evaluate import evaluate_master
from bitgear.fold import fold
from bitgear.graph import IMAGE, Conv, Graph, Linear, Pool, sums
from bitgear.inputs import InputRecord
from bitgear.plans import MAX_PLANS, BatchNorm, NamedPlan, mean_bits
from bitgear.tasks.datasets import LabelledImages
from tests.core.test_core_checkpoint import rejected, split, with_metadata, with_tensors
from tests.graphs import NODES, random_graph
from tests.masters import LABELS, named_plan, random_codes, random_master, tiny_graph, tiny_master, with_own_scales

SMALL = Graph(
    (
        Conv("stem", IMAGE, 2, 3, padding=1, bits=8),
        Conv("body", "stem", 2, 1, residual="stem"),
        Conv("last", "body", 3, 1),
        Pool("pool", "last"),
        Linear("head", "pool", len(LABELS)),
    )
)


def small_master() -> Master:
    master = tiny_master(graph=SMALL, side_px=4)
    return master.with_plans([named_plan(master, "mixed-3.2"), named_plan(master, "fast", own=False)])


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A master of a small network with a plan that has a batch norm of its own, and one that has none."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    write_master(small_master(), path)
    return path.read_bytes()


# -- what a plan computes ---------------------------------------------------------------------------------------------


def with_rows(master: Master, named: NamedPlan) -> Master:
    """A master without plans whose every row is what a plan has of its own: what it must equal at its widths."""
    assert named.batch_norm is not None
    tensors = dict(master.tensors)
    for node, norm in named.batch_norm.items():
        for part, value in (("gain", norm.gain), ("bias", norm.bias)):
            tensors[f"{node}.{part}"] = np.repeat(value[None], len(master.widths), axis=0)
    for name, scale in (named.scales or {}).items():
        tensors[name] = np.full(len(master.widths), scale)
    return dataclasses.replace(master, tensors=tensors, plans=())


def seen(master: Master, q_image: np.ndarray, plan: Plan) -> dict[tuple[str, str], np.ndarray]:
    """All integers of a forward pass of the reference, and its output."""
    integers: dict[tuple[str, str], np.ndarray] = {}
    integers["", "output"] = reference.run(
        master, q_image, plan, lambda name, what, q: integers.update({(name, what): q})
    )
    return integers


def assert_engines_give(master: Master, plan: Plan, q_images: np.ndarray, expected: np.ndarray) -> None:
    for name in ENGINE_NAMES:
        if name == "native" and (native_failure() is not None or not sums(master.graph.nodes[-1])):
            continue  # it returns sums only
        output = create_engine(name, threads=2).derive(master, plan).run(q_images)
        np.testing.assert_array_equal(output, expected, err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_brings_what_it_owns_to_every_layer_and_every_engine(seed: int) -> None:
    graph = random_graph(seed)
    if not graph.searchable:
        pytest.skip("all widths of this graph are fixed")
    bare = random_master(graph, 17, seed, extreme=seed % 2 == 1)
    named = named_plan(bare, seed=seed, default=WIDTHS[seed % 7])
    if seed % 3:
        named = with_own_scales(bare, named, seed)
    master = bare.with_plans([named, named_plan(bare, "other", seed)])
    q_images = random_codes(master, 3, seed)
    q_images[1], q_images[2] = -128, 127
    expected, got = seen(with_rows(bare, named), q_images, named.plan), seen(master, q_images, named.plan)
    assert expected.keys() == got.keys()
    for key, integers in expected.items():
        np.testing.assert_array_equal(got[key], integers, err_msg=str(key))
    assert_engines_give(master, named.plan, q_images, expected["", "output"])


@pytest.mark.parametrize("kind", NODES)
def test_plans_of_every_node_equal_the_reference(kind: str) -> None:
    bare = random_master(NODES[kind], 11, 3)
    named = with_own_scales(bare, named_plan(bare, seed=3))
    master = bare.with_plans([named])
    q_images = random_codes(master, 2, 3)
    expected = reference.run(with_rows(bare, named), q_images, named.plan)
    np.testing.assert_array_equal(reference.run(master, q_images, named.plan), expected)
    assert_engines_give(master, named.plan, q_images, expected)


def test_widths_and_other_plans_do_not_know_of_it() -> None:
    bare = random_master(tiny_graph(), 8, 1)
    named = named_plan(bare)
    master = bare.with_plans([named])
    shared = dataclasses.replace(named, batch_norm=None)
    q_images = random_codes(master, 2)
    for precision in (*WIDTHS, Plan.parse("w8a7"), Plan(LayerBits(8, 8), (("a.conv1", LayerBits(2, 2)),))):
        np.testing.assert_array_equal(
            reference.run(master, q_images, precision), reference.run(bare, q_images, precision)
        )
    own = reference.run(master, q_images, named.plan)
    assert not np.array_equal(own, reference.run(bare, q_images, named.plan))
    np.testing.assert_array_equal(
        reference.run(bare.with_plans([shared]), q_images, named.plan), reference.run(bare, q_images, named.plan)
    )


def test_the_widths_alone_say_whose_batch_norm_it_is() -> None:
    """The order of layers and repeats of the default make no other plan."""
    master = small_master()
    stored = next(each for each in master.plans if each.name == "mixed-3.2")
    again = Plan(stored.plan.default, (("stem", stored.plan.default), *reversed(stored.plan.layers)))
    assert again == stored.plan
    assert stored.batch_norm is not None
    conv = SMALL.convs[0]
    np.testing.assert_array_equal(
        fold(master, conv, again).multiplier, fold(with_rows(master, stored), conv, again).multiplier
    )


def test_a_plan_is_evaluated_with_its_batch_norm() -> None:
    bare = random_master(SMALL, 8, 1)
    named = named_plan(bare)
    master = bare.with_plans([named])
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8), rng.integers(0, 10, 40), bare.labels)
    found = evaluate_master(master, create_engine("reference"), images, [named.plan, Plan.uniform(8)])
    expected = evaluate_master(with_rows(bare, named), create_engine("reference"), images, [named.plan])
    assert found[named.plan].metrics == expected[named.plan].metrics
    assert list(found) == [named.plan, Plan.uniform(8)]


# -- by name ----------------------------------------------------------------------------------------------------------


def test_a_master_offers_its_widths_and_its_plans_by_name() -> None:
    bare = tiny_master()

    def made(name: str, bits: int) -> NamedPlan:
        return NamedPlan(name, Plan(LayerBits(8, 8), (("a.conv1", LayerBits(bits, bits)),)), {"top1": bits / 10})

    master = bare.with_plans([made("b", 3), made("a", 2), made("c", 7)])
    assert list(master.precisions) == [*map(str, WIDTHS), "c", "b", "a"]
    assert master.plan(" 4\t") == master.plan(4) == Plan.uniform(4)
    assert master.plan("w8a7") == Plan.parse("w8a7")
    assert master.plan("b") == master.plans[0].plan
    assert master.metrics("c") == {"top1": 0.7}
    assert master.metrics("8") == bare.accuracy[8]
    assert dataclasses.replace(master, accuracy={}).metrics("8") == {}
    with pytest.raises(KeyError):
        master.metrics("d")


@pytest.mark.parametrize("text", ["mixed-9.9", "3", "w8a3"])
def test_a_precision_that_is_not_there_names_those_that_are(text: str) -> None:
    bare = random_master(SMALL, 8, 1, widths=(8, 4, 2))
    with pytest.raises(errors.PrecisionNotOffered, match=rf"{text}; it offers 8, 4, 2, mixed-3.2") as caught:
        bare.with_plans([named_plan(bare)]).plan(text)
    assert caught.value.offered == ("8", "4", "2", "mixed-3.2")


@pytest.mark.parametrize("text", ["", "9", "auto", "W8A7", "mixed 3.2", "mixed-3.2\n", "x" * 10_000])
def test_what_no_precision_is_written_as_is_said_so(text: str) -> None:
    with pytest.raises(errors.PrecisionError, match="nor does it name a plan of model 'tiny'") as caught:
        small_master().plan(text)
    assert type(caught.value) is errors.PrecisionError
    assert len(str(caught.value)) < 300


def test_the_mean_width_is_of_the_layers_that_are_open() -> None:
    plan = Plan(LayerBits(8, 8), (("body", LayerBits(4, 2)), ("last", LayerBits(2, 2))))
    assert mean_bits(SMALL, plan) == 2.5
    assert mean_bits(SMALL, Plan.uniform(3)) == 3
    assert mean_bits(Graph((Conv("stem", IMAGE, 2, 3, bits=8),)), Plan.parse("w4a3")) == 3.5


# -- added, replaced, written -----------------------------------------------------------------------------------------


def assert_same_plans(some: tuple[NamedPlan, ...], others: tuple[NamedPlan, ...]) -> None:
    assert [each.name for each in some] == [each.name for each in others]
    for one, other in zip(some, others, strict=True):
        assert one.plan == other.plan
        assert one.accuracy == other.accuracy
        assert (one.batch_norm is None) is (other.batch_norm is None)
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            np.testing.assert_array_equal(tensor, other.tensors[name], err_msg=name)


def test_plans_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    master = small_master()
    write_master(master, tmp_path / "m.safetensors")
    stored = read_master(tmp_path / "m.safetensors")
    assert_same_plans(stored.plans, tuple(sorted(master.plans, key=lambda each: each.name)))
    assert stored.tensors.keys() == master.tensors.keys()
    assert stored.nbytes == master.nbytes == sum(t.nbytes for t in master.tensors.values()) + 2 * 2 * (2 + 2 + 3)
    for tensor in stored.plans[1].tensors.values():
        assert not tensor.flags.writeable
    q_images = random_codes(master, 2)
    for plan in master.precisions.values():
        np.testing.assert_array_equal(reference.run(stored, q_images, plan), reference.run(master, q_images, plan))


def test_the_order_of_plans_does_not_matter_to_the_file(tmp_path: Path) -> None:
    master = small_master()
    write_master(master, tmp_path / "a")
    write_master(dataclasses.replace(master, plans=master.plans[::-1]), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_adding_plans_to_a_file_leaves_all_else_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_master(tiny_master(), path)
    before, old = path.read_bytes(), read_master(path)
    after = rewrite_master(path, lambda master: master.with_plans([named_plan(master), named_plan(master, "x")]))
    assert after.digest != old.digest
    assert set(tmp_path.iterdir()) == {path}
    for field in dataclasses.fields(Master):
        if field.name not in ("tensors", "digest", "plans"):
            assert getattr(after, field.name) == getattr(old, field.name), field.name
    (old_header, old_data), (header, data) = split(before), split(path.read_bytes())
    for name, entry in old_header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            now_begin, now_end = header[name]["data_offsets"]
            assert data[now_begin:now_end] == old_data[begin:end], name
    q_images = random_codes(old, 1)
    np.testing.assert_array_equal(reference.run(old, q_images, 4), reference.run(after, q_images, 4))  # still as it was
    rewrite_master(path, lambda master: dataclasses.replace(master, plans=()))
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="Windows has no locks of folders")
def test_of_two_that_add_plans_at_once_neither_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_master(tiny_master(), path)

    def add(name: str) -> Master:
        return rewrite_master(path, lambda master: master.with_plans([named_plan(master, name)]))

    other = threading.Thread(target=add, args=("other",))

    def change(master: Master) -> Master:
        other.start()
        other.join(0.2)  # it waits until this one is written
        return master.with_plans([named_plan(master, "mine")])

    rewrite_master(path, change)
    other.join()
    assert {plan.name for plan in read_master(path).plans} == {"mine", "other"}


def test_what_belongs_to_other_weights_is_not_added(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_master(tiny_master(), path)
    held = read_master(path)
    rewrite_master(path, lambda master: master.with_plans([named_plan(master)]), of=held)
    rewrite_master(path, lambda master: master.with_accuracy({"8": {"top1": 0.5}}), of=held)  # plans do not count
    write_master(tiny_master(1), path)
    content = path.read_bytes()
    with pytest.raises(MasterChanged, match=r"m\.safetensors was written anew meanwhile.*run again"):
        rewrite_master(path, lambda master: master.with_plans([named_plan(master)]), of=held)
    assert path.read_bytes() == content


def test_a_file_without_plans_is_one_that_older_versions_read(tmp_path: Path, content: bytes) -> None:
    write_master(tiny_master(), tmp_path / "m.safetensors")
    metadata = split((tmp_path / "m.safetensors").read_bytes())[0]["__metadata__"]
    assert metadata["version"] == "1"
    assert not {"plans", "sensitivities"} & metadata.keys()
    assert split(content)[0]["__metadata__"]["version"] == "2"


def test_a_version_that_cannot_hold_what_the_file_holds_is_refused(tmp_path: Path, content: bytes) -> None:
    bare = small_master()
    write_master(bare.with_plans([with_own_scales(bare, bare.plans[0])]), tmp_path / "scales.safetensors")
    for written, version in ((content, "1"), ((tmp_path / "scales.safetensors").read_bytes(), "2")):
        error = rejected(tmp_path, with_metadata(written, version=version))
        assert type(error) is errors.MetadataInvalid
        assert f"'version' is {version}" in str(error)


def test_a_link_to_a_master_stays_and_the_master_is_rewritten(tmp_path: Path, content: bytes) -> None:
    file, link = tmp_path / "m.safetensors", tmp_path / "link"
    file.write_bytes(content)
    link.symlink_to(file)
    rewrite_master(link, lambda master: master.with_accuracy({"8": {"top1": 0.5}}))
    assert link.is_symlink()
    assert read_master(file).accuracy[8] == {"top1": 0.5}


def test_a_plan_takes_the_place_of_one_of_its_name() -> None:
    master = small_master()
    other = named_plan(master, "mixed-3.2", seed=9)
    replaced = master.with_plans([other])
    assert [each.name for each in replaced.plans] == ["fast", "mixed-3.2"]
    assert replaced.plans[1] is other
    assert replaced.plan("mixed-3.2") == other.plan != master.plan("mixed-3.2")
    assert replaced.tensors is master.tensors


def test_accuracy_is_put_where_it_belongs() -> None:
    master = small_master()
    measured = master.with_accuracy({"8": {"top1": 0.1}, "fast": {"top1": 0.2}})
    assert measured.accuracy == {**master.accuracy, 8: {"top1": 0.1}}
    assert {each.name: each.accuracy for each in measured.plans} == {
        "mixed-3.2": {"top1": 0.6, "images": 100}, "fast": {"top1": 0.2},
    }  # fmt: skip


def own_norms(master: Master, **changed: Any) -> NamedPlan:
    named = named_plan(master, "new", 5)
    assert named.batch_norm is not None
    norms = {node: norm for node, norm in {**named.batch_norm, **changed}.items() if norm is not None}
    return dataclasses.replace(named, batch_norm=norms)


def norm(gain: Any, bias: Any = None) -> BatchNorm:
    gain = np.asarray(gain)
    return BatchNorm(gain, np.zeros(gain.shape, np.float16) if bias is None else np.asarray(bias))


BODY = (("body", LayerBits(4, 4)),)
WRONG: dict[str, tuple[Callable[[Master], NamedPlan], type[BitgearError], str]] = {
    "a name": (lambda m: named_plan(m, "Mixed"), errors.PlanInvalid, "'Mixed' cannot name a plan"),
    "a width's name": (lambda m: named_plan(m, "w8a7"), errors.PlanInvalid, "'w8a7' cannot name a plan"),
    "a long name": (lambda m: named_plan(m, "x" * 10_000), errors.PlanInvalid, "cannot name a plan"),
    "a uniform plan": (lambda _: NamedPlan("four", Plan.uniform(4)), errors.PlanInvalid, "'four' is 4 everywhere"),
    "two widths": (lambda _: NamedPlan("w", Plan.parse("w4a8")), errors.PlanInvalid, "'w' is w4a8 everywhere"),
    "a pinned layer": (
        lambda _: NamedPlan("p", Plan(LayerBits(8, 8), (("stem", LayerBits(4, 4)),))), errors.PlanInvalid, "'stem'",
    ),
    "no layer": (
        lambda _: NamedPlan("p", Plan(LayerBits(8, 8), (("none", LayerBits(4, 4)),))), errors.PlanInvalid, "'none'",
    ),
    "no convolution": (
        lambda _: NamedPlan("p", Plan(LayerBits(8, 8), (("head", LayerBits(4, 4)),))), errors.PlanInvalid, "'head'",
    ),
    "widths of another": (
        lambda m: dataclasses.replace(m.plans[0], name="twin"), errors.PlanInvalid, "'mixed-3.2' and 'twin'",
    ),
    "accuracy": (
        lambda _: NamedPlan("p", Plan(LayerBits(8, 8), BODY), {"top1": float("nan")}), errors.PlanInvalid, "accuracy",
    ),
    "a missing norm": (lambda m: own_norms(m, last=None), errors.TensorMissing, "plans/new/last.gain"),
    "a foreign norm": (lambda m: own_norms(m, head=norm([1])), errors.PlanInvalid, "'head', which is no convolution"),
    "a type": (lambda m: own_norms(m, body=norm(np.ones(2, np.float32))), errors.TensorDtype, "plans/new/body.gain"),
    "a shape": (lambda m: own_norms(m, body=norm(np.ones(3, np.float16))), errors.TensorShape, "plans/new/body.gain"),
    "a value": (
        lambda m: own_norms(m, body=norm(np.ones(2, np.float16), np.float16([0, np.inf]))),
        errors.ValueInvalid, "plans/new/body.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_plan_that_does_not_fit_is_not_added_and_not_written(tmp_path: Path, case: str) -> None:
    make, error, said = WRONG[case]
    master = small_master()
    wrong = make(master)
    with pytest.raises(error, match=said) as caught:
        master.with_plans([wrong])
    assert type(caught.value) is error
    assert len(str(caught.value)) < 400
    with pytest.raises((CheckpointError, GraphError)):
        write_master(dataclasses.replace(master, plans=(*master.plans, wrong)), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_plan_of_widths_that_the_master_lacks_is_refused() -> None:
    master = random_master(SMALL, 8, 1, widths=(8, 4))
    for layer in (LayerBits(3, 4), LayerBits(8, 2)):
        with pytest.raises(errors.PlanInvalid, match=r"'p' uses [23] bits; the master has 8, 4"):
            master.with_plans([NamedPlan("p", Plan(LayerBits(8, 8), (("body", layer),)))])


def test_two_plans_of_one_name_are_refused(tmp_path: Path) -> None:
    master = small_master()
    twice = [named_plan(master, "x", 1), named_plan(master, "x", 2)]
    with pytest.raises(errors.PlanInvalid, match="two plans are named 'x'"):
        master.with_plans(twice)
    with pytest.raises(errors.PlanInvalid, match="two plans are named 'x'"):
        write_master(dataclasses.replace(master, plans=tuple(twice)), tmp_path / "m.safetensors")


def test_there_is_a_limit_to_plans() -> None:
    master = tiny_master()
    widths = [LayerBits(w, a) for w in WIDTHS for a in WIDTHS if (w, a) != (8, 8)]
    many = [NamedPlan(f"p{i}", Plan(LayerBits(8, 8), (("a.conv1", widths[i]),))) for i in range(MAX_PLANS + 1)]
    assert len(master.with_plans(many[:-1]).plans) == MAX_PLANS
    with pytest.raises(errors.PlanInvalid, match=f"up to {MAX_PLANS}"):
        master.with_plans(many)


# -- files ------------------------------------------------------------------------------------------------------------


def with_plan(content: bytes, **changes: Any) -> bytes:
    """The file with entries of its plan ``fast`` replaced; ... removes one."""
    plans = json.loads(split(content)[0]["__metadata__"]["plans"])
    plans["fast"] = {key: value for key, value in {**plans["fast"], **changes}.items() if value is not ...}
    return with_metadata(content, plans=json.dumps(plans))


@pytest.mark.parametrize("text", ["", "{", "null", "3", "[]", '"x"', "NaN", '{"a": {}, "a": {}}', "[" * 100_000])
def test_the_entry_is_an_object(tmp_path: Path, content: bytes, text: str) -> None:
    error = rejected(tmp_path, with_metadata(content, plans=text))
    assert type(error) is errors.MetadataInvalid
    assert "'plans'" in str(error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"default": ...}, "not an object of"),
        ({"extra": 1}, "not an object of"),
        ({"default": 4}, "'4' gives no layer its widths"),
        ({"default": None}, "gives no layer its widths"),
        ({"default": "9"}, "'9' gives no layer its widths"),
        ({"default": "auto"}, "gives no layer its widths"),
        ({"layers": []}, "'layers' is not an object"),
        ({"layers": None}, "'layers' is not an object"),
        ({"layers": {}}, "everywhere"),
        ({"layers": {"body": "1"}}, "gives no layer its widths"),
        ({"layers": {"body": ["4"]}}, "gives no layer its widths"),
        ({"layers": {"body": "8", "last": "4"}}, "repeats its default"),
        ({"layers": {"stem": "4"}}, "'stem'"),
        ({"layers": {"": "4"}}, "''"),
        ({"layers": {"x" * 10_000: "4"}}, "no convolution"),
        ({"accuracy": None}, "accuracy"),
        ({"accuracy": []}, "accuracy"),
        ({"accuracy": {"top1": "0.9"}}, "accuracy"),
        ({"accuracy": {"top1": True}}, "accuracy"),
        ({"accuracy": {"top1": 10**400}}, "accuracy"),
        ({"accuracy": {"top1": 10**308}}, "accuracy"),
        ({"own_batch_norm": 0}, "'own_batch_norm'"),
        ({"own_batch_norm": "false"}, "'own_batch_norm'"),
        ({"own_batch_norm": None}, "'own_batch_norm'"),
        ({"own_scales": 1}, "'own_scales'"),
        ({"own_scales": None}, "'own_scales'"),
    ],
)
def test_each_part_of_a_stored_plan_is_checked(
    tmp_path: Path, content: bytes, changes: dict[str, Any], said: str
) -> None:
    error = rejected(tmp_path, with_plan(content, **changes))
    assert type(error) is errors.PlanInvalid
    assert said in str(error)


@pytest.mark.parametrize("name", ["", "4", "w8a7", "auto", "none", "No Good", "x" * 5000, "a/b", "é"])
def test_stored_names_are_checked(tmp_path: Path, content: bytes, name: str) -> None:
    plans = json.loads(split(content)[0]["__metadata__"]["plans"])
    plans[name] = plans.pop("fast")
    assert type(rejected(tmp_path, with_metadata(content, plans=json.dumps(plans)))) is errors.PlanInvalid


def test_a_stored_twin_is_refused(tmp_path: Path, content: bytes) -> None:
    plans = json.loads(split(content)[0]["__metadata__"]["plans"])
    plans["twin"] = plans["fast"]
    error = rejected(tmp_path, with_metadata(content, plans=json.dumps(plans)))
    assert type(error) is errors.PlanInvalid
    assert "'fast' and 'twin'" in str(error)


GAIN = "plans/mixed-3.2/body.gain"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.pop(GAIN), errors.TensorMissing),
        (lambda t: t.update({GAIN: t[GAIN].astype(np.float32)}), errors.TensorDtype),
        (lambda t: t.update({GAIN: t[GAIN][:1]}), errors.TensorShape),
        (lambda t: t.update({GAIN: t[GAIN][None]}), errors.TensorShape),
        (lambda t: t[GAIN].fill(np.nan), errors.ValueInvalid),
        (lambda t: t[GAIN].fill(-np.inf), errors.ValueInvalid),
        (lambda t: t.update({"plans/mixed-3.2/head.gain": t[GAIN]}), errors.TensorUnexpected),
        (lambda t: t.update({"plans/fast/body.gain": t[GAIN]}), errors.TensorUnexpected),
        (lambda t: t.update({"plans/other/body.gain": t[GAIN]}), errors.TensorUnexpected),
    ],
)
def test_the_tensors_of_a_plan_are_checked(
    tmp_path: Path, content: bytes, change: Callable[[dict[str, np.ndarray]], None], error: type[BitgearError]
) -> None:
    assert type(rejected(tmp_path, with_tensors(content, change))) is error


def test_tensors_of_a_plan_need_its_entry(tmp_path: Path, content: bytes) -> None:
    assert type(rejected(tmp_path, with_metadata(content, plans=None))) is errors.TensorUnexpected


@settings(deadline=None, database=None, max_examples=200)
@given(data=st.data())
def test_damaged_plans_give_a_named_error_or_a_valid_master(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["4", "w2a3", "body", ""])),
        lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
        max_leaves=4,
    )
    plans = json.loads(split(content)[0]["__metadata__"]["plans"])
    target = plans
    while data.draw(st.booleans()) and any(isinstance(value, dict) and value for value in target.values()):
        target = data.draw(st.sampled_from([value for value in target.values() if isinstance(value, dict) and value]))
    target[data.draw(st.sampled_from([*target, "body", "stem", "x"]))] = data.draw(values)
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(with_metadata(content, plans=json.dumps(plans)))
    try:
        master = read_master(path)
    except CheckpointError as error:
        str(error).encode()
    else:
        for each in master.plans:
            reference.run(master, random_codes(master, 1), each.plan)
    path.unlink()


# -- sensitivities ----------------------------------------------------------------------------------------------------


def test_sensitivities_are_kept(tmp_path: Path) -> None:
    known = {"body": 0.25, "last": -1e-9, "stem": 3, "head": 0.0}
    master = dataclasses.replace(tiny_master(graph=SMALL, side_px=4), sensitivities=known)
    write_master(master, tmp_path / "m.safetensors")
    stored = read_master(tmp_path / "m.safetensors")
    assert stored.sensitivities == known
    assert split((tmp_path / "m.safetensors").read_bytes())[0]["__metadata__"]["version"] == "1"
    assert stored.with_plans([named_plan(stored)]).sensitivities == known


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ('{"body": 1, "last": "1"}', "finite numbers"),
        ('{"body": 1, "last": true}', "finite numbers"),
        ('{"body": 1, "last": 1e999}', "not JSON"),
        ('{"body": 1, "last": NaN}', "not JSON"),
        ('{"body": 1, "body": 1, "last": 1}', "twice"),
        ('{"body": 1}', "lacks 'last'"),
        ("{}", "lacks 'body'"),
        ('{"body": 1, "last": 1, "pool": 1}', "'pool', which has no weights"),
        ('{"body": 1, "last": 1, "nowhere": 1}', "'nowhere', which has no weights"),
    ],
)
def test_sensitivities_are_checked(tmp_path: Path, content: bytes, text: str, said: str) -> None:
    error = rejected(tmp_path, with_metadata(content, sensitivities=text))
    assert type(error) is errors.MetadataInvalid
    assert "'sensitivities'" in str(error)
    assert said in str(error)


# -- scales of its own -------------------------------------------------------------------------------------------------


def test_scales_of_its_own_are_read_back_from_one_tensor(tmp_path: Path) -> None:
    bare = small_master()
    named = with_own_scales(bare, bare.plans[0])
    path = tmp_path / "scales.safetensors"
    write_master(bare.with_plans([named]), path)
    header = split(path.read_bytes())[0]
    assert header["__metadata__"]["version"] == "3"
    assert header["plans/mixed-3.2/scales"]["shape"] == [5]
    stored = next(each for each in read_master(path).plans if each.name == "mixed-3.2")
    assert stored.scales == named.scales
    assert list(stored.scales or ()) == [
        "body.act_scale", "body.residual_scale", "head.act_scale", "last.act_scale", "pool.act_scale",
    ]  # fmt: skip
    assert "its own batch norm and scales" in "\n".join(as_lines(describe(read_master(path), 1234)))


@pytest.mark.parametrize(
    ("scales", "said"), [({}, "'body.act_scale' is missing"), ({"stem.act_scale": np.float32(1)}, "too many")]
)
def test_scales_that_are_not_those_of_the_graph_are_refused(scales: dict[str, np.float32], said: str) -> None:
    master = small_master()
    with pytest.raises(errors.PlanInvalid, match=said):
        master.with_plans([dataclasses.replace(master.plans[0], scales=scales)])


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e30])
def test_a_scale_that_is_none_is_neither_added_nor_written(tmp_path: Path, scale: float) -> None:
    master = small_master()
    named = with_own_scales(master, master.plans[0])
    wrong = dataclasses.replace(named, scales={**(named.scales or {}), "body.act_scale": np.float32(scale)})
    with pytest.raises(errors.ValueInvalid, match=r"plans/mixed-3\.2/scales.*'body\.act_scale'"):
        master.with_plans([wrong])
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(errors.ValueInvalid, match=r"plans/mixed-3\.2/scales"):
        write_master(dataclasses.replace(master, plans=(wrong,)), path)
    assert not path.exists()


# -- described --------------------------------------------------------------------------------------------------------


def test_a_master_without_weights_is_described(tmp_path: Path) -> None:
    bare = Master("bare", "classify", Graph((Pool("p", IMAGE),)), InputRecord.centred(8, 128), tuple("abc"), (8, 2), {})
    path = tmp_path / "bare.safetensors"
    write_master(bare, path)
    found = describe(read_master(path), 1234)
    assert (found["parameters"], found["file_bytes_per_parameter"], found["layers"]) == (0, None, [])
    assert "0 parameters in 1,234 bytes, - a parameter" in as_lines(found)


def test_plans_are_described() -> None:
    master = dataclasses.replace(small_master(), sensitivities={"body": 0.125, "last": 2.5e-7})
    found = describe(master, 1234)
    assert list(found["precisions"]) == list(master.precisions)
    assert found["precisions"]["mixed-3.2"]["top1"] == 0.6
    plan = master.plan("mixed-3.2")
    assert found["plans"]["mixed-3.2"] == {
        "mean_bits": mean_bits(SMALL, plan),
        "own_batch_norm": True,
        "own_scales": False,
        "layers": {name: str(Plan(plan.of(name))) for name in ("body", "last")},
    }
    codes = {"stem": 54 * 8, "body": 4 * plan.of("body").weight_bits, "last": 6 * plan.of("last").weight_bits, "h": 240}
    assert found["precisions"]["mixed-3.2"]["packed_weight_bytes"] == sum(-(-bits // 8) for bits in codes.values())
    shown = "\n".join(as_lines(found))
    assert "its own batch norm" in shown
    assert "2.5e-07" in shown
    assert "60.00 %" in shown
    json.dumps(found, allow_nan=False)
