"""Collectors that fail and recover, and many stages: each arrives once, counters continue without a jump."""

from __future__ import annotations

import json

import pytest

from tests.integration.receivers import Receiver, serving
from tests.integration.soak import brief_and_long

pytestmark = pytest.mark.chaos


def inference(sink):
    """The counter of inference in each export."""
    sums = []
    for _, metric in sink.exports():
        if metric.name == "carbon_otel.stage.energy":
            of_kind = [
                p.as_double
                for p in metric.sum.data_points
                if "inference" in {a.value.string_value for a in p.attributes}
            ]
            if of_kind:
                sums.append(sum(of_kind))
    return sums


def variables(sink):
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "OTEL_BSP_SCHEDULE_DELAY": "300",
    }


@brief_and_long("stages", 5_000, 60_000)
def test_a_thousand_stages_a_second_arrive_once_each(stages, launch, sink):
    """As fast as the machine can, but at most a thousand a second."""
    # The SDK drops spans if its queue is full, which happens on a slow machine.
    room = {"OTEL_BSP_MAX_QUEUE_SIZE": str(stages)}
    program = launch("stages_at_a_rate.py", "1000", str(stages), **variables(sink), **room)
    output = json.loads(program.finish(timeout=stages / 1000 * 20))
    ids = [span.span_id for span in sink.spans() if span.name == "predict"]
    assert len(ids) == len(set(ids)) == stages
    of_spans = sum(
        a.value.double_value
        for span in sink.spans()
        for a in span.attributes
        if a.key == "carbon_otel.energy.exclusive_j"
    )
    assert of_spans == pytest.approx(output["joules"], rel=1e-9)
    assert inference(sink)[-1] == pytest.approx(output["joules"], rel=1e-9)
    # After the buffers have reached their size, memory does not grow with the stages.
    assert output["memory"][-1] - output["memory"][1] < 20e6


class _Trouble(Receiver):
    """Answers every second request properly and fails the others."""

    trouble = "503"
    seen = 0

    def do_POST(self):  # noqa: N802 - http.server's name
        cls = type(self)
        cls.seen += 1
        if cls.seen % 2:
            if cls.trouble == "drops":
                self.rfile.read(10)
                self.connection.close()
                return
            self.body()
            self.send_response(int(cls.trouble))
            if cls.trouble == "429":
                self.send_header("Retry-After", "0")
            self.end_headers()
            return
        super().do_POST()


@pytest.mark.parametrize("trouble", ["503", "429", "drops"])
def test_batches_that_a_failing_collector_accepts_later_are_not_lost(trouble, launch):
    handler = type("Handler", (_Trouble,), {"trouble": trouble})
    with serving(handler) as sink:
        program = launch("stages_at_a_rate.py", "20", "60", **variables(sink))
        output = json.loads(program.finish())
        sums = inference(sink)
        assert sums == sorted(sums)
        # The last export may have failed too, with the process ending before a retry.
        assert sums[-1] <= output["joules"] * (1 + 1e-9)
        ids = [span.span_id for span in sink.spans() if span.name == "predict"]
        assert 0 < len(ids) <= 60 and len(set(ids)) == len(ids)
        assert "Traceback" not in program.err
