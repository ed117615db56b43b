"""A headless Chromium, driven as a person would use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

INSTALL = Path(__file__).resolve().parents[2] / "image/install.sh"
PACKAGES = ("chromium", "chromium-driver", "fonts-liberation")
# Chromium's own calls home would only cost time. Its sandbox does not work for root.
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


def programs() -> tuple[str, str]:
    """Chromium and its driver, installed where they are missing and that can be done; else the test is skipped."""
    found = _found()
    if found is None:
        result = subprocess.run(
            [INSTALL, "--no-install-recommends", *PACKAGES], capture_output=True, text=True, check=False
        )
        found = _found()
        if found is None:
            pytest.skip(f"no Chromium with its driver: {result.stderr.strip()}")
    return found


def _found() -> tuple[str, str] | None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window, with a profile of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        options = ChromeOptions()
        options.binary_location, driver = programs()
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for switch in (*SWITCHES, f"--user-data-dir={directory}"):
            options.add_argument(switch)
        os.environ["SE_AVOID_STATS"] = "true"
        self.driver = Chrome(options, Service(driver))

    def close(self) -> None:
        self.driver.quit()

    def look_as(self, width: int, height: int, *, scheme: str = "light") -> None:
        """The size of the window in CSS pixels, and whether its owner likes it light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def click(self, selector: str) -> None:
        """Clicks on what the page, which changes all the time, has there now."""
        for _ in range(3):
            with suppress(WebDriverException):
                self.one(selector).click()
                return
        self.one(selector).click()

    def click_until(self, selector: str, condition: Callable[[], object], what: str) -> None:
        """Clicks, and once more should the page have moved away under the pointer, until `condition` is true."""
        for _ in range(2):
            self.click(selector)
            with suppress(AssertionError):
                self.wait(condition, what, 5)
                return
        self.wait(condition, what)

    def type(self, selector: str, text: str) -> None:
        """Types `text` over what is in a field."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def choose(self, selector: str, label: str) -> None:
        Select(self.one(selector)).select_by_visible_text(label)

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 10) -> None:
        """Waits until `condition` is true.

        The page may change or load while it is looked at, for which the driver has errors of several kinds.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(WebDriverException):
                if condition():
                    return
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} seconds: {what}; the page says:\n{self.one('body').text}")

    def picture(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))

    def complaints(self) -> list[str]:
        """What is in the console, errors and violations of the content policy among it."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
