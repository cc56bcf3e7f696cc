#!/usr/bin/env python3
"""Writes the Grafana dashboard, grafana/dashboards/minisgl.json, from the list of panels below.

    python3 deploy/make_dashboard.py            writes the file
    python3 deploy/make_dashboard.py --check    fails where the committed file differs

A panel's place, identity and units follow from its line here; the JSON is never edited by hand. The names of metrics
are those of `minisgl serve` with its own prefix (`--metrics-prefix minisgl`, the default).
"""
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).resolve().parent / "grafana/dashboards/minisgl.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
LABELS = 'model_name=~"$model",engine=~"$engine"'
NOT_TOTAL = 'state!="total"'
RATE = "[$__rate_interval]"
WIDTH = 24  # of Grafana's grid


def series(metric, more=""):
    """A metric's series of the chosen models and engines."""
    return f"minisgl_{metric}{{{LABELS}{',' + more if more else ''}}}"


def rate(metric, by=""):
    """Its increase a second."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({series(metric)}{RATE}))"


def total(metric):
    return f"sum({series(metric)})"


def quantile(q, histogram):
    return f"histogram_quantile({q}, {rate(histogram + '_bucket', 'le')})"


def mean(histogram):
    return f"{rate(histogram + '_sum')} / {rate(histogram + '_count')}"


def target(number, expression, legend, **more):
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "legendFormat": legend,
        "range": True,
        "refId": "ABCDEFGH"[number],
        **more,
    }


def panel(kind, title, description, unit, targets, width, height, **more):
    """A panel without its place. `more` may hold `options` and `custom` (how lines are drawn)."""
    field = {"unit": unit, "min": 0, "custom": more.get("custom", {})}
    if unit == "percentunit":
        field["max"] = 1
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": [target(i, *t) if isinstance(t, tuple) else t for i, t in enumerate(targets)],
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": more.get("options", {}),
        "gridPos": {"w": width, "h": height},
    }


def stat(title, description, unit, expression):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "graphMode": "area",
        "colorMode": "value",
    }
    return panel("stat", title, description, unit, [(expression, title)], 4, 4, options=options)


def lines(title, description, unit, targets, width=8, stack=False):
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if stack else 10, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "none"},
    }
    return panel("timeseries", title, description, unit, targets, width, 8, custom=custom, options=options)


def percentiles(title, description, unit, histogram, width=8):
    targets = [(quantile(q, histogram), name) for q, name in [("0.5", "p50"), ("0.9", "p90"), ("0.99", "p99")]]
    return lines(title, description, unit, [*targets, (mean(histogram), "mean")], width)


def heatmap(title, description, unit, histogram, width=8):
    expression = f"sum by (le) (increase({series(histogram + '_bucket')}{RATE}))"
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    one = target(0, expression, "{{le}}", format="heatmap")
    return panel("heatmap", title, description, unit, [one], width, 8, options=options)


ROWS = [
    (
        "Now",
        [
            stat("Running", "Sequences in the batch.", "short", total("num_requests_running")),
            stat("Waiting", "Sequences that wait to run.", "short", total("num_requests_waiting")),
            stat("Generated", "Output tokens a second.", "short", rate("generation_tokens_total")),
            stat(
                "K/V in use",
                "Share of the pages that sequences hold, of the fullest engine.",
                "percentunit",
                f"max({series('kv_cache_usage_perc')})",
            ),
            stat("TTFT p99", "Request to first token.", "s", quantile("0.99", "time_to_first_token_seconds")),
            stat("Rejected", "Requests a second that were not taken.", "reqps", rate("admission_rejections_total")),
        ],
    ),
    (
        "Latency",
        [
            percentiles("Time to first token", "Request head to first token.", "s", "time_to_first_token_seconds"),
            percentiles("Inter-token latency", "One token to the next.", "s", "inter_token_latency_seconds"),
            percentiles("End to end", "Request head to the end.", "s", "e2e_request_latency_seconds"),
            heatmap("TTFT distribution", "Requests by bucket.", "s", "time_to_first_token_seconds"),
            heatmap("ITL distribution", "Tokens by bucket.", "s", "inter_token_latency_seconds"),
            heatmap("E2E distribution", "Requests by bucket.", "s", "e2e_request_latency_seconds"),
            percentiles(
                "Time per output token",
                "A request's mean time a token after the first.",
                "s",
                "request_time_per_output_token_seconds",
            ),
            lines(
                "Where the time goes",
                "Mean seconds of a request in each phase.",
                "s",
                [(mean(f"request_{phase}_time_seconds"), phase) for phase in ["queue", "prefill", "decode"]],
                stack=True,
            ),
            percentiles("Queue time", "Accepted to first run.", "s", "request_queue_time_seconds"),
        ],
    ),
    (
        "Throughput",
        [
            lines(
                "Tokens a second",
                "Prompt tokens count when a sequence begins to run, cached ones too.",
                "short",
                [
                    (rate("generation_tokens_total"), "generated"),
                    (rate("prompt_tokens_total"), "prompt"),
                    (rate("prompt_tokens_cached_total"), "prompt, cached"),
                ],
            ),
            lines(
                "Requests ended a second",
                "By reason.",
                "reqps",
                [(rate("request_success_total", "finished_reason"), "{{finished_reason}}")],
                stack=True,
            ),
            heatmap("Tokens a step", "Batches by input tokens.", "short", "iteration_tokens"),
        ],
    ),
    (
        "Scheduler",
        [
            lines(
                "Running and waiting",
                "Sequences.",
                "short",
                [(total("num_requests_running"), "running"), (total("num_requests_waiting"), "waiting")],
            ),
            lines(
                "Preemptions a second",
                "Sequences retracted because pages ran out; they run again.",
                "short",
                [(rate("num_preemptions_total"), "preemptions")],
            ),
            lines(
                "Rejections a second",
                "Requests that were not taken, by reason.",
                "reqps",
                [(rate("admission_rejections_total", "reason"), "{{reason}}")],
                stack=True,
            ),
        ],
    ),
    (
        "K/V cache",
        [
            lines(
                "Pages by state",
                "A page is free, cached (the prefix tree's) or in use (a sequence's).",
                "short",
                [(f"sum by (state) ({series('kv_pages', NOT_TOTAL)})", "{{state}}")],
                stack=True,
            ),
            lines(
                "Cache use",
                "Share of the pages that sequences hold.",
                "percentunit",
                [(series("kv_cache_usage_perc"), "{{model_name}} {{engine}}")],
            ),
            lines(
                "Prefix hit rate",
                "Tokens found of those looked up.",
                "percentunit",
                [(f"{rate('prefix_cache_hits_total')} / {rate('prefix_cache_queries_total')}", "hit rate")],
            ),
        ],
    ),
    (
        "Lengths",
        [
            heatmap("Prompt tokens", "Requests by prompt length.", "short", "request_prompt_tokens", 12),
            heatmap("Generated tokens", "Requests by output length.", "short", "request_generation_tokens", 12),
        ],
    ),
]


def placed(rows):
    """The panels with their identities and places: rows from the top, panels from the left."""
    panels, y = [], 0
    for title, row in rows:
        head = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": head})
        x, y = 0, y + 1
        for one in row:
            place = one["gridPos"]
            if x + place["w"] > WIDTH:
                x, y = 0, y + place["h"]
            one["gridPos"] = {"x": x, "y": y, **place}
            x += place["w"]
            panels.append(one)
        y += row[-1]["gridPos"]["h"]
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return panels


def variable(name, label):
    query = f"label_values(minisgl_num_requests_running, {label})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard():
    return {
        "uid": "minisgl",
        "title": "minisgl",
        "description": "Made by deploy/make_dashboard.py.",
        "tags": ["minisgl", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
                variable("model", "model_name"),
                variable("engine", "engine"),
            ]
        },
        "annotations": {"list": []},
        "panels": placed(ROWS),
    }


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE} is not what {sys.argv[0]} writes: run it without --check")
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
