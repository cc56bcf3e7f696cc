#!/usr/bin/env python3
"""Opens a report page in headless Chromium, by its command line alone, and checks what a reader would see.

    report_page.py PAGE.html [ID ...]

Every `<figure class="plot">` must hold an SVG with something drawn in it, each ID must be one of them, the console must be
free of errors, and nothing may be loaded from a network. Exits with 0, 1 with what is wrong, or 77 where there is no
Chromium ($CHROMIUM names one).
"""
import html.parser, os, pathlib, re, shutil, subprocess, sys, tempfile

DRAWN = {"path", "circle", "rect", "line", "polyline"}


class Figures(html.parser.HTMLParser):
    """Figures of a page: id to the number of things drawn in each."""

    def __init__(self):
        super().__init__()
        self.drawn, self.now, self.in_svg, self.loads = {}, None, False, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("src", "href"):
            if re.match(r"(https?:)?//", attributes.get(name) or ""):
                self.loads.append(f"<{tag} {name}={attributes[name]}>")
        if tag == "script":
            self.loads.append("<script>")
        if tag == "figure" and "plot" in (attributes.get("class") or "").split():
            self.now = attributes.get("id") or f"figure {len(self.drawn) + 1}"
            self.drawn[self.now] = 0
        elif tag == "svg" and self.now:
            self.in_svg = True
        elif tag in DRAWN and self.in_svg:
            self.drawn[self.now] += 1

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag == "figure":
            self.now = None
        elif tag == "svg":
            self.in_svg = False


def chromium():
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def check(page, ids):
    browser = chromium()
    if not browser:
        print("no Chromium here: the page was not opened")
        return 77
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
            "--disable-background-networking", "--no-first-run", "--enable-logging=stderr", "--dump-dom",
            pathlib.Path(page).resolve().as_uri(),
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    wrong = []
    if run.returncode:
        wrong.append(f"Chromium ended with {run.returncode}")
    # The page's own messages carry this mark; what the browser says of the machine (D-Bus, GPU) does not.
    wrong += [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    figures = Figures()
    figures.feed(run.stdout)
    wrong += [f"loads {what}" for what in figures.loads]
    if not figures.drawn:
        wrong.append("no figure is in it")
    # Axes alone are two lines at least: a plot has more.
    wrong += [f"{name}: nothing is drawn" for name, n in figures.drawn.items() if n < 3]
    wrong += [f"no figure {name}" for name in ids if name not in figures.drawn]
    for what in wrong:
        print(f"{page}: {what}")
    if not wrong:
        print(f"{page}: {len(figures.drawn)} plots, no console error")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(check(sys.argv[1], sys.argv[2:]))
