"""The server in a Mac's menu bar: whether it answers, how many requests it has, its page. Needs: pip install rumps."""

import argparse
import json
import subprocess
import sys
import urllib.error
import urllib.request
import webbrowser

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080", help="the server's address")
url = parser.parse_args().url.rstrip("/")

try:
    import rumps
except ImportError:
    print("error: the menu bar needs rumps, on a Mac: pip install rumps", file=sys.stderr)
    sys.exit(2)


def health() -> dict:
    """What the server says of itself; that it is off where nobody answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:  # 503 of one that is not well
        return json.load(error)
    except (OSError, ValueError):
        return {"status": "off"}


class MenuBar(rumps.App):
    """A star, and beside it the number of requests."""

    def __init__(self):
        super().__init__("☆", menu=["Chat", "Copy Address", None])
        self.state = rumps.MenuItem("")
        self.menu.insert_before("Chat", self.state)

    @rumps.timer(2)
    def look(self, _):
        found = health()
        busy = found.get("running", 0) + found.get("waiting", 0)
        self.title = ("★" if found["status"] == "ok" else "☆") + (f" {busy}" if busy else "")
        self.state.title = f"{found.get('model', url)}: {found['status']}"

    @rumps.clicked("Chat")
    def chat(self, _):
        webbrowser.open(url)

    @rumps.clicked("Copy Address")
    def copy(self, _):
        subprocess.run(["pbcopy"], input=f"{url}/v1".encode())


MenuBar().run()
