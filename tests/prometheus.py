#!/usr/bin/env python3
"""Does every panel of the dashboard show data under load? Asked of a real Prometheus.

    python3 tests/prometheus.py --server http://127.0.0.1:1919 [--metrics URL] [--dashboard FILE]

Starts Debian's `prometheus` in a folder of its own, with deploy/prometheus.yml and deploy/rules.yml pointed at the
server and a scrape a second, puts load on the server, and asks each panel's expressions until all return numbers. Also
checks the metrics' text with promtool, that the dashboard is what its script writes, that the dashboard's variables
have values, and that the alerts can be evaluated. One line a panel; exits with 1 and the names of those without data.
Bounded: a minute in all, REQUESTS requests at most. The standard library alone.
"""
import argparse
import contextlib
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
SECONDS = 50  # until a panel without data has none
CLIENTS = 24  # more than the suite's server has places, so that some are turned away
REQUESTS = 4000
WINDOW = "30s"  # for $__rate_interval


def get(url, data=None, timeout=10):
    body = urllib.parse.urlencode(data).encode() if data else None
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=timeout) as answer:
        return answer.read().decode()


class Load:
    """Clients that ask short completions, one after the other, until told to stop."""

    def __init__(self, server):
        self.server = server
        model = json.loads(get(f"{server}/v1/models"))["data"][0]
        self.model = model["id"]
        # A word is a token at least: longer than the context, and refused.
        self.too_long = "much " * (model["max_model_len"] + 1)
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.left = REQUESTS
        self.statuses = {}

    def take(self):
        """The number of the next request, or None at the end."""
        with self.lock:
            if self.left == 0:
                return None
            self.left -= 1
            return self.left

    def ask(self, number):
        # Prompts share their beginning, so that the prefix cache has something to find.
        prompt = self.too_long if number % 40 == 0 else f"Tell me about the number {number % 50}"
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": 4 + number % 24,
            "temperature": 0,
            "ignore_eos": True,
            "stream": number % 2 == 0,
        }
        request = urllib.request.Request(
            f"{self.server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError as e:
            return type(e).__name__

    def client(self):
        while not self.stop.is_set() and (number := self.take()) is not None:
            status = self.ask(number)
            with self.lock:
                self.statuses[status] = self.statuses.get(status, 0) + 1
            self.stop.wait(0.05 if status == 200 else 0.2)

    @contextlib.contextmanager
    def running(self):
        threads = [threading.Thread(target=self.client, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(timeout=10)


def configuration(folder, metrics):
    """deploy/prometheus.yml with the server at hand, written into `folder`."""
    url = urllib.parse.urlsplit(metrics)
    text = (DEPLOY / "prometheus.yml").read_text()
    for old, new in [
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("metrics_path: /metrics", f"metrics_path: {url.path}"),
        ("minisgl:1919", url.netloc),
    ]:
        if text.count(old) != 1:
            sys.exit(f"deploy/prometheus.yml does not have `{old}` once")
        text = text.replace(old, new)
    file = folder / "prometheus.yml"
    file.write_text(text)
    shutil.copy(DEPLOY / "rules.yml", folder / "rules.yml")
    subprocess.run(["promtool", "check", "config", file], check=True, stdout=subprocess.DEVNULL)
    return file


@contextlib.contextmanager
def prometheus(metrics):
    """A Prometheus that scrapes `metrics`: its URL."""
    with tempfile.TemporaryDirectory(prefix="minisgl-prometheus-") as folder:
        folder = pathlib.Path(folder)
        config = configuration(folder, metrics)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = folder / "log"
        with log.open("w") as out:
            child = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                if child.poll() is not None:
                    break
                with contextlib.suppress(OSError):
                    get(f"{url}/-/ready", timeout=1)
                    yield url
                    return
                time.sleep(0.1)
            sys.exit(f"prometheus did not start:\n{log.read_text()}")
        finally:
            child.terminate()
            child.wait(timeout=20)


def panels(dashboard):
    """(title, expressions) of each panel that has any, those inside rows too."""
    for panel in dashboard["panels"]:
        yield from panels({"panels": panel.get("panels", [])})
        expressions = [target["expr"] for target in panel.get("targets", [])]
        if expressions:
            yield panel["title"], expressions


def substituted(expression):
    """The expression as Grafana would send it, everything chosen."""
    expression = expression.replace("$__rate_interval", WINDOW)
    expression = re.sub(r"\$(model|engine)\b", ".*", expression)
    if "$" in expression:
        sys.exit(f"a variable that this test does not know: {expression}")
    return expression


def ask(url, path, data):
    """Prometheus' answer; what it says of a bad expression is the error."""
    try:
        return json.loads(get(f"{url}/api/v1/{path}", data))["data"]
    except urllib.error.HTTPError as e:
        sys.exit(f"{path} {data}: {e.read().decode()}")


def numbers(url, expression):
    """The values that an expression has now: a series whose value is not a number shows nothing in a panel."""
    values = [float(sample["value"][1]) for sample in ask(url, "query", {"query": expression})["result"]]
    return [value for value in values if not math.isnan(value)]


def wait_for_panels(url, wanted, deadline):
    """Asks until every panel has data: title → how many series, 0 for none."""
    found = {title: 0 for title, _ in wanted}
    while True:
        for title, expressions in wanted:
            if found[title] == 0:
                counts = [len(numbers(url, substituted(expression))) for expression in expressions]
                found[title] = sum(counts) if all(counts) else 0
        if all(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def check_variables(url, dashboard):
    """Each variable of the dashboard has values to choose from."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            query = urllib.parse.urlencode({"match[]": metric})
            values = ask(url, f"label/{label}/values?{query}", None)
            if not values:
                sys.exit(f"the dashboard's variable {variable['name']} has no values")
            print(f"ok       variable {variable['name']}: {', '.join(values)}")


def check_rules(url, deadline):
    """Every rule was evaluated, and without an error."""
    while True:
        rules = [rule for group in ask(url, "rules", None)["groups"] for rule in group["rules"]]
        if all(rule["health"] == "ok" for rule in rules):
            print(f"ok       {len(rules)} rules")
            return
        if time.monotonic() > deadline:
            sys.exit("\n".join(f"rule {r['name']}: {r['health']} {r.get('lastError', '')}" for r in rules))
        time.sleep(0.5)


def check_text(metrics):
    """promtool has nothing to say of the metrics' text."""
    text = get(metrics)
    said = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    if said.returncode != 0 or said.stdout or said.stderr:
        sys.exit(f"promtool check metrics:\n{said.stdout}{said.stderr}")
    print(f"ok       promtool check metrics: {len(text.splitlines())} lines")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", required=True, help="the server's base URL")
    arguments.add_argument("--metrics", help="the metrics' URL (default: SERVER/metrics)")
    arguments.add_argument("--dashboard", type=pathlib.Path, default=DEPLOY / "grafana/dashboards/minisgl.json")
    options = arguments.parse_args()
    server = options.server.rstrip("/")
    metrics = options.metrics or f"{server}/metrics"
    deadline = time.monotonic() + SECONDS

    subprocess.run([sys.executable, DEPLOY / "make_dashboard.py", "--check"], check=True)
    dashboard = json.loads(options.dashboard.read_text())
    wanted = list(panels(dashboard))
    with prometheus(metrics) as url, Load(server).running() as load:
        found = wait_for_panels(url, wanted, deadline)
        check_variables(url, dashboard)
        check_rules(url, deadline)
        check_text(metrics)
    for title, count in found.items():
        print(f"ok       {title}: {count} series" if count else f"NO DATA  {title}")
    print("requests by status:", dict(sorted(load.statuses.items(), key=str)))
    without = [title for title, count in found.items() if not count]
    if without:
        sys.exit(f"panels without data: {', '.join(without)}")
    if not load.statuses.get(200):
        sys.exit("no request succeeded")


if __name__ == "__main__":
    main()
