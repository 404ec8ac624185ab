"""Requests and answers as values: nothing here touches a client."""

import functools
import json

import pytest
from bitgear_client import (
    BadRequest,
    ConflictingControls,
    Detection,
    InputError,
    Latency,
    ModelInfo,
    NotReady,
    PngMask,
    PolygonMask,
    PolygonSegment,
    Precision,
    Prediction,
    ProtocolError,
    RleMask,
    RleSegment,
    SegmentedClass,
    ServerProblem,
    Timing,
)
from bitgear_client.protocol import (
    Answer,
    classify_call,
    detect_call,
    ladder_call,
    live_call,
    model_call,
    models_call,
    parse_classify,
    parse_detect,
    parse_health,
    parse_ladder,
    parse_model,
    parse_models,
    parse_problem,
    parse_segment,
    ready_call,
    segment_call,
)

PARSERS = [parse_classify, parse_detect, parse_segment, parse_models, parse_model, parse_ladder]


def _ok(document):
    return Answer(200, {}, json.dumps(document).encode())


def test_classify_sends_nothing_unasked():
    call = classify_call(b"image")
    assert call.request.method == "POST"
    assert call.request.path == "/v1/models/resnet20-cifar10/classify"
    assert call.request.headers == {"Content-Type": "application/octet-stream"}
    assert call.request.query == {}
    assert call.request.body == b"image"
    assert call.retry


def test_classify_sends_every_control_in_one_place():
    call = classify_call(
        b"",
        "m",
        precision="auto",
        precision_min=3,
        precision_max=6,
        device_profile="edge",
        lenient=True,
        deadline_ms=12.5,
        priority=1,
        top_k=1,
        request_id="a.b_c:d-1",
    )
    assert call.request.headers == {
        "Precision": "auto",
        "Precision-Min": "3",
        "Precision-Max": "6",
        "Device-Profile": "edge",
        "Prefer": "handling=lenient",
        "Deadline-Ms": "12.5",
        "X-Request-Id": "a.b_c:d-1",
        "Content-Type": "application/octet-stream",
    }
    assert call.request.query == {"priority": "1", "top_k": "1"}


@pytest.mark.parametrize(
    ("given", "sent"), [(1, "1.0"), (0.0004, "0.0004"), (50.12345, "50.123"), (1e6, "1000000.0"), (-1, "-1")]
)
def test_a_deadline_is_sent_as_the_server_takes_it(given, sent):
    for make in (classify_call, detect_call, segment_call):
        assert make(b"", "m", deadline_ms=given, priority=0).request.headers["Deadline-Ms"] == sent
        assert make(b"", "m", deadline_ms=given, priority=0).request.query["priority"] == "0"


def test_detect_and_segment_send_nothing_unasked():
    for call, path in (
        (detect_call(b"image", "m"), "/v1/models/m/detect"),
        (segment_call(b"image", "m"), "/v1/models/m/segment"),
    ):
        assert (call.request.method, call.request.path, call.request.body) == ("POST", path, b"image")
        assert call.request.headers == {"Content-Type": "application/octet-stream"}
        assert call.request.query == {}
        assert call.retry


def test_detect_and_segment_send_every_control_in_one_place():
    common = {
        "precision": 4,
        "precision_min": 3,
        "precision_max": 6,
        "device_profile": "edge",
        "request_id": "r-1",
    }
    detect = detect_call(b"", "m", **common, confidence=0.25, iou=1, max_detections=7, classes=("car", 2)).request
    segment = segment_call(b"", "m", **common, mask_format="rle").request
    assert detect.headers == segment.headers == classify_call(b"", **common).request.headers
    assert detect.query == {"confidence": "0.25", "iou": "1.0", "max_detections": "7", "classes": "car,2"}
    assert segment.query == {"mask_format": "rle"}


@pytest.mark.parametrize(
    ("value", "sent"),
    [(0, "0.0"), (0.1, "0.1"), (1e-7, "0.0000001"), (1e20, "100000000000000000000"), (-0.5, "-0.5"),
     (float("nan"), "NaN"), (float("inf"), "Infinity")],
)  # fmt: skip
def test_thresholds_are_sent_without_an_exponent_for_the_server_to_judge(value, sent):
    assert detect_call(b"", "m", confidence=value).request.query == {"confidence": sent}
    assert detect_call(b"", "m", iou=value).request.query == {"iou": sent}


def test_classes_to_look_for():
    def sent(classes):
        return detect_call(b"", "m", classes=classes).request.query["classes"]

    assert [sent("car, bus"), sent(["car"]), sent([2, "bus"]), sent([])] == ["car, bus", "car", "2,bus", ""]
    with pytest.raises(InputError, match="comma"):
        sent(["red, round"])


@pytest.mark.parametrize("width", range(2, 9))
def test_a_pinned_precision_is_one_digit_in_the_header(width):
    assert classify_call(b"", precision=width).request.headers["Precision"] == str(width)


def test_zero_is_sent_for_the_server_to_refuse():
    call = classify_call(b"", precision=0, top_k=0)
    assert (call.request.headers["Precision"], call.request.query) == ("0", {"top_k": "0"})


@pytest.mark.parametrize("value", ["edge\r\nX-Evil: 1", "gerät", " edge", "edge\x00"])
def test_what_a_header_cannot_carry_is_refused_here(value):
    with pytest.raises(InputError, match="Device-Profile"):
        classify_call(b"", device_profile=value)
    with pytest.raises(InputError, match="X-Request-Id"):
        classify_call(b"", request_id=value)


def test_model_names_are_escaped():
    assert model_call("a/b ?#ü").request.path == "/v1/models/a%2Fb%20%3F%23%C3%BC"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_a_url_would_lose_are_refused(name):
    images = (classify_call, detect_call, segment_call)
    for make in (model_call, ladder_call, *(functools.partial(call, b"") for call in images)):
        with pytest.raises(InputError, match="model"):
            make(name)


HALF = "\ud800"  # of a surrogate pair, which no encoding of characters has


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: model_call(None), "None"),
        (lambda: classify_call(b"", HALF), "model"),
        (lambda: classify_call(b"", top_k=HALF), "top_k"),
        (lambda: classify_call(b"", precision=HALF), "Precision"),
        (lambda: classify_call(b"", deadline_ms="soon"), "deadline_ms"),
        (lambda: detect_call(b"", "m", deadline_ms=[]), "deadline_ms"),
        (lambda: detect_call(b"", "m", confidence="much"), "confidence"),
        (lambda: detect_call(b"", "m", iou=10**400), "iou"),
        (lambda: detect_call(b"", "m", classes=1), "classes"),
        (lambda: detect_call(b"", "m", classes=[HALF]), "classes"),
        (lambda: segment_call(b"", "m", mask_format=HALF), "mask_format"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(make, argument):
    with pytest.raises(InputError, match=argument):
        make()


def test_the_other_paths():
    calls = [models_call(), model_call("m"), ladder_call("m"), live_call(), ready_call()]
    assert [(call.request.method, call.request.path, call.retry) for call in calls] == [
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/m", True),
        ("GET", "/v1/models/m/ladder", True),
        ("GET", "/v2/health/live", False),
        ("GET", "/v2/health/ready", False),
    ]


def test_classify_answer(classify_json):
    result = parse_classify(_ok(classify_json))
    assert (result.id, result.model, result.version) == ("0b6c", "resnet20-cifar10", "1")
    assert (result.image_width_px, result.image_height_px) == (32, 24)
    assert result.predictions == (Prediction("cat", 3, 0.93), Prediction("dog", 5, 0.05))
    assert result.precision == Precision(requested="4", served=4, source="request", reason="asked")
    assert result.timing == Timing(
        queue_ms=0.02, decode_ms=0.2, switch_ms=0.0, infer_ms=1.1, post_ms=0.05, total_ms=1.5
    )
    assert result.top == result.predictions[0]


def test_detect_answer(detect_json, classify_json):
    result = parse_detect(_ok(detect_json))
    assert (result.model, result.image_width_px, result.image_height_px) == ("boxes", 32, 24)
    assert result.detections == (
        Detection("car", 2, 0.91, (1.5, 2.0, 30.25, 20.0)),
        Detection("bus", 0, 0.3, (0.0, 0.0, 32.0, 24.0)),
    )
    classified = parse_classify(_ok(classify_json))
    assert (result.precision, result.timing) == (classified.precision, classified.timing)


def test_no_detections_are_an_answer(detect_json):
    detect_json["detections"] = []
    assert parse_detect(_ok(detect_json)).detections == ()


@pytest.mark.parametrize("box", [[], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, True]])
def test_a_malformed_box(detect_json, box):
    detect_json["detections"][1]["box"] = box
    with pytest.raises(ProtocolError, match="answer"):
        parse_detect(_ok(detect_json))


def test_segment_answers(segment_json, rle_json, polygon_json):
    result = parse_segment(_ok(segment_json))
    assert result.mask == PngMask(32, 24, b"\x89PNG")
    assert result.classes == (SegmentedClass("road", 3, 768, 1.0),)
    assert parse_segment(_ok(rle_json)).mask == RleMask(3, 2, (RleSegment("road", 3, (0, 4, 2)),))
    square = ((0, 0), (2, 0), (2, 2), (0, 2))
    assert parse_segment(_ok(polygon_json)).mask == PolygonMask(3, 2, (PolygonSegment("road", 3, (square,)),))


@pytest.mark.parametrize("data", ["****", "QUI", "QUJD\n", "é"])
def test_a_mask_that_is_not_base64(segment_json, data):
    segment_json["mask"]["data"] = data
    with pytest.raises(ProtocolError, match="base64"):
        parse_segment(_ok(segment_json))


def test_a_mask_of_a_format_that_nobody_asked_for(segment_json):
    segment_json["mask"]["format"] = "gif"
    with pytest.raises(ProtocolError, match="gif"):
        parse_segment(_ok(segment_json))


@pytest.mark.parametrize("polygons", [[[[0, 0, 0]]], [[[0]]], [[[0, 1.0]]], [[["0", 1]]], [[0, 1]], [[[True, 1]]]])
def test_malformed_polygons(polygon_json, polygons):
    polygon_json["mask"]["segments"][0]["polygons"] = polygons
    with pytest.raises(ProtocolError, match=r"answer\.mask\.segments\[0\]\.polygons\[0\]"):
        parse_segment(_ok(polygon_json))


def test_top_is_the_most_confident_wherever_it_stands(classify_json):
    classify_json["predictions"].reverse()
    assert parse_classify(_ok(classify_json)).top.class_name == "cat"


def test_results_are_immutable(classify_json):
    result = parse_classify(_ok(classify_json))
    with pytest.raises(AttributeError):
        result.id = "other"


def test_a_whole_number_is_a_number(classify_json):
    classify_json["timing_ms"]["switch"] = 0
    switch_ms = parse_classify(_ok(classify_json)).timing.switch_ms
    assert isinstance(switch_ms, float)
    assert switch_ms == 0


def test_unknown_members_are_ignored(classify_json):
    expected = parse_classify(_ok(classify_json))
    for place in (
        classify_json,
        classify_json["image"],
        classify_json["predictions"][0],
        classify_json["precision"],
        classify_json["timing_ms"],
    ):
        place["news"] = {"nested": [None]}
    assert parse_classify(_ok(classify_json)) == expected


def _places(document, path=()):
    """Every member and item of a document, as the keys that lead to it."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _at(document, path):
    for key in path:
        document = document[key]
    return document


@pytest.mark.parametrize(
    ("name", "parse", "least"),
    [
        ("classify_json", parse_classify, 20),
        ("detect_json", parse_detect, 30),
        ("segment_json", parse_segment, 20),
        ("rle_json", parse_segment, 25),
        ("polygon_json", parse_segment, 30),
    ],
)
def test_a_member_that_is_missing_or_of_another_type_says_where(request, name, parse, least):
    answer = request.getfixturevalue(name)
    original = json.dumps(answer)
    places = [path for path in _places(answer) if path[-2:] not in (("rle", "size"), ("size", 0), ("size", 1))]
    assert len(places) > least
    for path in places:
        wrongs = [value for value in (None, True, "", [], {}) if not isinstance(value, type(_at(answer, path)))]
        for wrong in wrongs:
            document = json.loads(original)
            _at(document, path[:-1])[path[-1]] = wrong
            with pytest.raises(ProtocolError, match="answer"):
                parse(_ok(document))
        if isinstance(path[-1], str):
            document = json.loads(original)
            del _at(document, path[:-1])[path[-1]]
            with pytest.raises(ProtocolError, match=rf"{path[-1]} is missing"):
                parse(_ok(document))


@pytest.mark.parametrize(
    ("member", "value"),
    [("class_id", 3.0), ("class_id", "3"), ("class_id", True), ("confidence", "0.9"), ("confidence", 10**400)],
)
def test_numbers_are_not_guessed(classify_json, member, value):
    classify_json["predictions"][0][member] = value
    with pytest.raises(ProtocolError, match=rf"answer\.predictions\[0\]\.{member}"):
        parse_classify(_ok(classify_json))


def test_no_predictions_is_not_an_answer(classify_json):
    classify_json["predictions"] = []
    with pytest.raises(ProtocolError, match="empty"):
        parse_classify(_ok(classify_json))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[]",
        b"null",
        b'"text"',
    ],
)
@pytest.mark.parametrize("parse", PARSERS)
def test_a_body_that_is_no_answer(parse, body):
    with pytest.raises(ProtocolError):
        parse(Answer(200, {}, body))


def test_a_number_too_large_for_a_float(classify_json):
    body = json.dumps(classify_json).replace("0.93", "1e999").encode()
    with pytest.raises(ProtocolError, match="confidence"):
        parse_classify(Answer(200, {}, body))


@pytest.mark.parametrize("status", [100, 201, 204, 302, 600])
@pytest.mark.parametrize("parse", [*PARSERS, parse_health])
def test_other_statuses_are_not_understood(parse, status):
    with pytest.raises(ProtocolError, match=str(status)):
        parse(Answer(status, {}, b"{}"))


def test_models_answer(model_json):
    expected = ModelInfo(
        name="resnet20-cifar10",
        version="1",
        task="classify",
        precisions=(8, 4, 2),
        default_precision=8,
        classes=10,
        input_width_px=48,
        input_height_px=32,
    )
    assert parse_models(_ok({"models": [model_json]})) == (expected,)
    assert parse_models(_ok({"models": []})) == ()


def test_model_answer(details_json):
    model = parse_model(_ok(details_json))
    assert (model.name, model.precisions, model.input_width_px) == ("resnet20-cifar10", (8, 4, 2), 48)
    assert model.labels == ("airplane", "automobile")
    assert model.accuracy == {8: {"top1": 0.917}, 2: {"top1": 1.0}}
    assert model.provenance == {"seed": 1, "commit": "abc"}


def test_a_model_with_plans(details_json):
    details_json["precisions"].append("mixed-3.2")
    details_json["accuracy"]["mixed-3.2"] = {"top1": 0.912}
    model = parse_model(_ok(details_json))
    assert model.precisions == (8, 4, 2, "mixed-3.2")
    assert model.accuracy == {8: {"top1": 0.917}, 2: {"top1": 1.0}, "mixed-3.2": {"top1": 0.912}}


def test_a_plan_is_asked_for_and_served(classify_json):
    call = classify_call(b"x", precision="mixed-3.2")
    assert call.request.headers["Precision"] == "mixed-3.2"
    classify_json["precision"] |= {"requested": "mixed-3.2", "served": "mixed-3.2"}
    assert call.parse(_ok(classify_json)).precision.served == "mixed-3.2"


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("labels", ["a", 1], r"answer\.labels\.1"),
        ("labels", "ab", "array"),
        ("precisions", [8, 4.5], r"answer\.precisions\.1"),
        ("precisions", [8, None], r"answer\.precisions\.1"),
        ("accuracy", {"8": 0.9}, r"answer\.accuracy\.8"),
        ("accuracy", {"8": {"top1": "0.9"}}, r"answer\.accuracy\.8\.top1"),
        ("provenance", None, "object"),
    ],
)
def test_a_malformed_model(details_json, member, value, message):
    details_json[member] = value
    with pytest.raises(ProtocolError, match=message):
        parse_model(_ok(details_json))


def test_ladder_answer(ladder_json):
    ladder = parse_ladder(_ok(ladder_json))
    assert (ladder.model, ladder.engine, ladder.profile) == ("resnet20-cifar10", "onnxruntime", "default")
    first, last = ladder.rungs
    assert (first.precision, first.offered, first.reason, first.top1) == (8, True, None, 0.917)
    assert (first.accuracy, last.accuracy) == ({"top1": 0.917}, {})
    assert (first.mean_bits, first.pruned, first.batch_fixed_ms, first.batch_image_ms) == (8, None, 0.1, 1.1)
    assert (first.resident, first.resident_bytes) == (True, 1100000)
    assert (last.precision, last.mean_bits) == ("mixed-2.6", 2.625)
    assert (last.pruned, last.batch_image_ms) == ("2 is as fast and as accurate", 0.6)
    assert first.latency == Latency(p50_ms=1.2, p99_ms=1.9, count=1000)
    assert (last.offered, last.reason, last.top1, last.resident_bytes, last.latency) == (
        False,
        "floor",
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "member",
    ["reason", "accuracy", "top1", "resident_bytes", "latency_ms", "precision", "mean_bits", "pruned", "batch_ms"],
)
def test_a_malformed_rung(ladder_json, member):
    ladder_json["rungs"][0][member] = []
    with pytest.raises(ProtocolError, match=rf"answer\.rungs\[0\]\.{member}"):
        parse_ladder(_ok(ladder_json))


def test_health():
    assert parse_health(Answer(200, {}, b"")) is True
    assert parse_health(Answer(503, {}, b"not a problem document")) is False
    with pytest.raises(ServerProblem, match="500"):
        parse_health(Answer(500, {}, b""))


def test_a_problem_keeps_everything_the_server_said():
    document = {
        "type": "urn:bitgear:problem:conflicting-controls",
        "title": "t",
        "status": 400,
        "detail": "precision is given twice",
        "instance": "from-body",
        "error": "precision is given twice",
        "parameter": "precision",
    }
    answer = Answer(400, {"x-request-id": "from-header"}, json.dumps(document).encode())
    with pytest.raises(ConflictingControls) as caught:
        parse_classify(answer)
    problem = caught.value
    assert (problem.status, problem.type) == (400, "urn:bitgear:problem:conflicting-controls")
    assert problem.detail == "precision is given twice"
    assert problem.request_id == "from-header"
    assert problem.members == {"parameter": "precision"}
    assert problem.retry_after_s is None
    assert str(problem) == "400 conflicting-controls: precision is given twice (request from-header)"
    assert parse_problem(Answer(400, {}, answer.body)).request_id == "from-body"


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"[]", b'{"type": 1, "detail": null, "instance": []}'])
def test_an_error_page_of_a_proxy_is_a_problem_too(body):
    problem = parse_problem(Answer(503, {}, body))
    assert type(problem) is NotReady
    assert (problem.type, problem.request_id) == ("about:blank", None)
    assert problem.detail == (body.decode() or "the answer has no body")


def test_a_long_error_page_is_cut():
    assert len(parse_problem(Answer(502, {}, b"\xff" * 10_000)).detail) == 200


def test_the_class_follows_the_type_before_the_status():
    body = b'{"type": "urn:bitgear:problem:bad-request"}'
    assert type(parse_problem(Answer(422, {}, body))) is BadRequest
