"""docs/metrics.md has every metric as the code has it."""

import re

from api.fakes import FakeClusters, a_busy_cluster
from docs import pages
from zorya.api import metrics

TEXT = pages.read("docs/metrics.md")
_SUFFIXES = {"counter": "_total", "info": "_info"}


def _collected() -> dict[str, tuple[str, frozenset[str], str]]:
    """Answer each metric's type, labels and meaning by the name of its series."""
    clusters = FakeClusters()
    clusters.put(a_busy_cluster("busy"))
    page = metrics.Page(metrics.take("0.1.0", clusters))
    found = {}
    for metric in page.collect():
        (name,) = {sample.name for sample in metric.samples}
        assert name == metric.name + _SUFFIXES.get(metric.type, "")
        found[name] = (metric.type, frozenset(metric.samples[0].labels), metric.documentation)
    return found


def test_the_page_has_every_metric_and_no_other() -> None:
    shown = {
        pages.code(name): (kind, frozenset(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in pages.rows(TEXT, "metric", "type", "labels", "meaning")
    }
    collected = _collected()
    assert set(shown) == set(collected)
    for name, (kind, labels, meaning) in collected.items():
        assert shown[name][:2] == (kind, labels), name
        assert shown[name][2].startswith(meaning), name


def test_the_expressions_name_metrics_that_exist() -> None:
    expressions = [block.text for block in pages.blocks(TEXT) if block.language == "promql"]
    named = set(re.findall(r"zorya_\w+", "\n".join(expressions)))
    assert len(named) > 4
    assert named <= set(_collected())
