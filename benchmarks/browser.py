"""The page in a real browser, as a person uses it, with a server of its own.

    python benchmarks/browser.py --chromium /usr/bin/chromium [--out DIR]

It needs Playwright (pip install playwright). A request that leaves 127.0.0.1 fails, and so does an
error of a script. Jobs are done by a stand-in that writes files which were made before, so that the
page is looked at and not the models. Pictures of what was seen are written to DIR.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image as Picture
from playwright.sync_api import Browser, Page, expect, sync_playwright

import exporters
from threed.apps.serve.app import make_app
from threed.apps.serve.desk import Desk
from threed.apps.serve.options import Serve
from threed.apps.serve.run import address, listen
from threed.queue import Queue, work
from threed.runs.do import Result
from threed.runs.job import Generate, Job
from threed.runs.progress import Listener, Progress

MADE = ("asset.glb", "asset.obj", "preview.png", "turntable.mp4", "report.json")
STEPS = 12
PATIENCE = 60_000  # milliseconds, of a machine that has much else to do


def doer(asset: Path) -> Any:
    """What does a job in a few seconds: its files are those of an asset that is there."""

    def act(job: Job, folder: Path, listen: Listener) -> Result:
        (folder / "progress").mkdir(exist_ok=True)
        steps = 10 * STEPS if "slow" in job.model_dump_json() else STEPS
        for step in range(steps):
            live = folder / "progress" / f"{step}.png"
            Picture.new("RGB", (256, 64), (20 * step % 256, 80, 99)).save(live)
            listen(Progress("optimising", step=step, steps=steps, preview=live,
                            losses={"loss": 1 / (step + 1)}))  # fmt: skip
            time.sleep(0.3)
        names = MADE if job.kind != "image" else ("picture.png",)
        for name in names:
            source = asset / ("preview.png" if name == "picture.png" else name)
            if source.exists():
                shutil.copy(source, folder / name)
        if isinstance(job, Generate) and job.best_of:
            note_seeds(folder, job.best_of)
        return Result(folder, folder / names[0], ())

    return act


def note_seeds(folder: Path, count: int) -> None:
    """Write what a run of several seeds does: their fronts, and how they did."""
    sheet = Picture.new("RGB", (128 * count, 128))
    for seed in range(count):
        sheet.paste((60 * seed % 256, 90, 200), (128 * seed, 0, 128 * seed + 128, 128))
    sheet.save(folder / "candidates.png")
    report = json.loads((folder / "report.json").read_text())
    report["best_of"] = [{"seed": seed, "clip": 0.2 + seed / 100, "fronts": 1}
                         for seed in range(count)]  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))


@contextmanager
def serving(folder: Path, asset: Path) -> Iterator[str]:
    """A server and a worker in this process; where it is."""
    desk = Desk(Queue.create(folder), Serve(rate=10_000))
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(desk), log_config=None, ws="none"))
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}),
        threading.Thread(target=work, args=[desk.queue],
                         kwargs={"stay": True, "enough": stop.is_set, "do": doer(asset)}),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        yield f"http://{address(listener)}"
    finally:
        stop.set()
        desk.closing.set()
        server.should_exit = True
        for thread in threads:
            thread.join()


def opened(browser: Browser, here: str, wrong: list[str], **options: Any) -> Page:
    """A page of a browser that notes what must not be: requests that leave, errors of scripts."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda asked: None if asked.url.startswith((here, "blob:", "data:"))
            else wrong.append(f"leaves: {asked.url}"))  # fmt: skip
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    # the newest picture is gone with the attempt that drew it
    page.on("console", lambda said: wrong.append(f"console: {said.text}")
            if said.type == "error" and not said.location["url"].endswith("live.png")
            else None)  # fmt: skip
    return page


def colours(page: Page) -> int:
    """How many colours the viewer shows."""
    return int(page.evaluate(
        "() => { const c = document.querySelector('#now canvas.view'); const d = "
        "document.createElement('canvas'); d.width = d.height = 64; const x = d.getContext('2d');"
        "x.drawImage(c, 0, 0, 64, 64); return new Set(new Uint32Array(x.getImageData(0, 0, 64, 64)"
        ".data.buffer)).size; }"))  # fmt: skip


def look(page: Page, out: Path, name: str, whole: bool = True) -> None:
    """Write what is seen."""
    page.screenshot(path=str(out / f"{name}.png"), full_page=whole)


def make_one(page: Page, out: Path, here: str) -> None:
    """Type a prompt, see progress, reload in the middle, turn the asset, download it."""
    page.goto(here)
    expect(page.locator("#preset option").nth(3)).to_be_attached()
    page.fill("#prompt", "a red mug")
    page.click("#go")
    page.wait_for_selector("#now progress")
    page.wait_for_selector("#now img.live")
    page.wait_for_selector("#now p:has-text('loss')")
    look(page, out, "progress")
    page.reload()
    page.wait_for_selector("#now canvas.view")
    page.wait_for_timeout(1500)
    first = page.locator("#now canvas.view").screenshot()
    assert colours(page) > 50, "the viewer shows nothing"
    page.focus("#now canvas.view")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    page.wait_for_timeout(300)
    assert page.locator("#now canvas.view").screenshot() != first, "it does not turn"
    with page.expect_download() as download:
        page.click("#now button:has-text('asset.glb')")
    assert Path(download.value.path()).read_bytes()[:4] == b"glTF"
    assert "faces" in page.inner_text("#report")
    look(page, out, "asset")


def go_on(page: Page, out: Path) -> None:
    """Candidates, side by side, what was made as a start, search, cancel and go on."""
    page.click("#now button:has-text('Side by side')")
    page.fill("#prompt", "a blue teapot")
    page.fill("#candidates", "2")
    page.click("#go")
    page.wait_for_selector("#now h2:has-text('a blue teapot')")
    page.wait_for_selector("#state-of-job:has-text('done')", timeout=90_000)
    page.click("#now button:has-text('Side by side')")
    expect(page.locator("#sides canvas.view")).to_have_count(2)
    page.wait_for_timeout(1500)
    look(page, out, "sides")
    expect(page.locator("#gallery .cards button")).to_have_count(2)
    before = page.url
    page.click("#gallery button:has-text('seed 1')")
    page.wait_for_function("before => location.href != before", arg=before)
    page.wait_for_selector("#now button:has-text('Paint it')")
    page.click("#now button:has-text('Paint it')")
    assert page.is_checked("input[value=texture]")
    page.fill("#prompt", "a slow teapot")
    page.fill("#candidates", "1")
    page.click("#go")
    page.wait_for_selector("#now progress:not([value='0'])")
    page.focus("#now button:has-text('Cancel')")
    shown = page.inner_text("#now")
    page.wait_for_function("shown => document.querySelector('#now').innerText != shown", arg=shown)
    page.keyboard.press("Enter")  # what goes on does not take the focus away
    page.click("#now button:has-text('Go on')")
    page.wait_for_selector("#now progress")
    page.click("#now button:has-text('Cancel')")
    page.wait_for_selector("#state-of-job:has-text('cancelled')")
    page.fill("#words", "slow")
    expect(page.locator("#history li")).to_have_count(1)
    page.fill("#words", "")


def choose(page: Page, out: Path) -> None:
    """Keep one of several candidates; cancel in the list; choose among seeds that were begun."""
    page.check("input[value=generate]")
    page.fill("#prompt", "a slow cactus")
    page.fill("#candidates", "4")
    page.click("#go")
    page.wait_for_selector("#now progress")
    page.click("#history li:has-text('waiting') button:has-text('Cancel') >> nth=0")
    expect(page.locator("#gallery .cards button:has-text('cancelled')")).to_have_count(1)
    page.click("#gallery button:has-text('Keep this one')")
    expect(page.locator("#gallery .cards button:has-text('cancelled')")).to_have_count(3)
    look(page, out, "candidates")
    page.click("#now button:has-text('Cancel')")
    page.fill("#prompt", "a green cactus")
    page.fill("#candidates", "1")
    page.fill("#best_of", "3")
    page.click("#go")
    page.wait_for_selector("#now .cards button", timeout=120_000)
    expect(page.locator("#now .cards button")).to_have_count(3)
    look(page, out, "seeds")
    with page.expect_request("**/v1/jobs") as asked:
        page.click("#now .cards button:has-text('seed 2')")
    data = json.loads(asked.value.post_data or "{}")
    assert (data["seed"], data["best_of"]) == (2, None), data
    page.fill("#best_of", "")


def fill_forms(page: Page, out: Path) -> None:
    """Boxes by mouse, a painted mask, pictures that are sent, and a part that is cut out of one."""
    page.check("input[value=image]")
    page.click("summary:has-text('System')")
    page.select_option("#system", "rpg")
    drag(page, "#inputs canvas.draw", (0.05, 0.05), (0.5, 0.98))
    page.keyboard.type("a red ball")
    look(page, out, "boxes")
    page.fill("#prompt", "a red ball and a blue cube")
    with page.expect_request("**/v1/jobs") as asked:
        page.click("#go")
    data = json.loads(asked.value.post_data or "{}")
    assert data["inputs"]["region"][0].endswith(":a red ball"), data
    page.select_option("#system", "ip_adapter")
    drag(page, "#inputs canvas[aria-label^=mask]", (0.25, 0.25), (0.6, 0.6))
    page.set_input_files("#inputs input[type=file] >> nth=0", str(out / "sides.png"))
    page.wait_for_selector("#inputs span:has-text('×')")
    drag(page, "#inputs canvas[aria-label^=image]", (0.1, 0.2), (0.4, 0.7))
    look(page, out, "mask")
    with page.expect_request("**/v1/files?name=part.png"), page.expect_request(
        "**/v1/jobs"
    ) as asked:  # fmt: skip
        page.click("#go")
    data = json.loads(asked.value.post_data or "{}")
    assert len(data["inputs"]["mask"][0]) == len(data["inputs"]["image"][0]) == 32, data


def drag(page: Page, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over an element, from a place to another, in shares of its sides."""
    found = page.locator(selector).first
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=6)
    page.mouse.up()


def without_webgl(browser: Browser, out: Path, here: str, wrong: list[str]) -> None:
    """A browser that has no WebGL shows a picture."""
    page = opened(browser, here, wrong)
    page.add_init_script(
        "const kind = HTMLCanvasElement.prototype; const own = kind.getContext; kind.getContext = "
        "function (name, ...rest) { return name === '2d' ? own.call(this, name, ...rest) : null; }"
    )
    page.goto(here)
    page.click("#history li:has-text('a red mug') button.open >> nth=0")
    page.wait_for_selector("#now p:has-text('A picture instead: this browser has no WebGL')")
    page.wait_for_function("document.querySelector('#now div > img')?.naturalWidth > 0")
    look(page, out, "no-webgl", whole=False)
    page.close()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of this id has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"Tab does not come to {name!r}")


def by_keyboard(page: Page, here: str) -> None:
    """A job by keys alone."""
    page.goto(here)
    expect(page.locator("#preset option").nth(3)).to_be_attached()
    tab_to(page, "prompt")
    page.keyboard.type("a green duck")
    tab_to(page, "go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#now h2:has-text('a green duck')")


def main(arguments: Sequence[str] | None = None) -> None:
    """Look at the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--asset", type=Path, required=True, help="a folder of an asset")
    parser.add_argument("--out", type=Path, default=Path("outputs/page"))
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    exporters.load(asked.asset / "asset.glb")
    wrong: list[str] = []
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader"]  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "q", asked.asset) as here,
        sync_playwright() as play,
    ):
        expect.set_options(timeout=PATIENCE)
        browser = play.chromium.launch(executable_path=asked.chromium, args=flags)
        page = opened(browser, here, wrong, viewport={"width": 1200, "height": 900})
        make_one(page, asked.out, here)
        go_on(page, asked.out)
        choose(page, asked.out)
        fill_forms(page, asked.out)
        by_keyboard(page, here)
        without_webgl(browser, asked.out, here, wrong)
        small = {"width": 375, "height": 740}
        phone = opened(browser, here, wrong, viewport=small, has_touch=True)
        phone.goto(page.url)
        phone.wait_for_selector("#now h2")
        wide = phone.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375, f"{wide} pixels wide"
        look(phone, asked.out, "phone")
        browser.close()
    assert not wrong, "\n".join(wrong)
    sys.stdout.write(f"the page works; nothing left this machine; pictures in {asked.out}\n")


if __name__ == "__main__":
    main()
