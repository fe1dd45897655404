"""Tests that the headers of an answer give these plan windows, and when each is used up at its rate so far."""

from __future__ import annotations

import pytest

from ocwatchd.core.forecast.plan_windows import PlanWindow, plan_windows

NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
HOUR, DAY = 3600.0, 86_400.0
FEBRUARY = "2027-02-01T00%3A00%3A00Z"
UNIFIED = "anthropic-ratelimit-unified"


def window(name: str, used: float, resets: float | None, length: float | None) -> PlanWindow:
    return PlanWindow("p", name, used, None if resets is None else NOW + resets, length, NOW)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, []),
        (
            {
                "anthropic-ratelimit-unified-status": "allowed",
                "anthropic-ratelimit-unified-reset": "1800007200",
                "anthropic-ratelimit-unified-5h-status": "allowed",
                "anthropic-ratelimit-unified-5h-utilization": "0.25",
                "anthropic-ratelimit-unified-5h-reset": "1800007200",
                "anthropic-ratelimit-unified-7d_sonnet-utilization": "0.5",
                "anthropic-ratelimit-unified-7d_sonnet-reset": "1800086400",
                "anthropic-ratelimit-unified-overage-utilization": "0.0",
            },
            [
                window("5h", 25, 7200, 5 * HOUR),
                window("7d_sonnet", 50, DAY, 7 * DAY),
                window("overage", 0, None, None),
            ],
        ),
        (
            {
                "x-codex-primary-used-percent": "12.5",
                "x-codex-primary-window-minutes": "300",
                "x-codex-primary-reset-at": "1800003600",
                "x-codex-secondary-used-percent": "80",
                "x-codex-secondary-window-minutes": "10080",
                "x-codex-secondary-reset-after-seconds": "3600",
                "x-codex-bengalfox-primary-used-percent": "3",
                "x-codex-bengalfox-primary-window-minutes": "90",
                "x-codex-plan-type": "plus",
                "x-codex-credits-balance": "9750.0",
            },
            [
                window("5h", 12.5, HOUR, 5 * HOUR),
                window("7d", 80, HOUR, 7 * DAY),
                window("bengalfox 90m", 3, None, 1.5 * HOUR),
            ],
        ),
        ({"x-codex-primary-used-percent": "7"}, [window("primary", 7, None, None)]),
        ({"x-codex-secondary-used-percent": "0", "x-codex-secondary-window-minutes": "0"}, []),
        (
            {"x-quota-snapshot-premium_interactions": f"ent=1500&ov=0.0&ovPerm=false&rem=31.5&rst={FEBRUARY}"},
            [window("premium_interactions", 68.5, 16 * DAY + 16 * HOUR, 31 * DAY)],
        ),
        (
            {"x-quota-snapshot-chat": f"ent=-1&ov=0.0&ovPerm=false&rem=100.0&rst={FEBRUARY}"},
            [],  # unlimited
        ),
        (
            {"x-usage-ratelimit-weekly": "ent=200&rem=89.0&rst=2027-01-16T08:00:00Z"},
            [window("weekly", 11, DAY, 7 * DAY)],
        ),
        ({"x-quota-snapshot-chat": "ent=300&rem=88.5"}, [window("chat", 11.5, None, None)]),
        ({f"{UNIFIED}-5h-utilization": "0.5", f"{UNIFIED}-5h-reset": "1799999000"}, []),
        ({"anthropic-ratelimit-unified-5h-utilization": "much", "x-quota-snapshot-chat": "remaining=0;limit=100"}, []),
        ({"x-codex-primary-used-percent": "-1", "anthropic-ratelimit-unified-7d-utilization": "999"}, []),
    ],
)  # fmt: skip
def test_what_headers_report(headers: dict[str, str], found: list[PlanWindow]) -> None:
    assert list(plan_windows("p", headers, NOW)) == found


@pytest.mark.parametrize(
    ("used", "resets", "length", "up"),
    [
        (50, 3 * HOUR, 5 * HOUR, 2 * HOUR),  # half in two hours, so the rest in two more
        (40, 3 * HOUR, 5 * HOUR, None),  # used up exactly at the reset
        (30, 3 * HOUR, 5 * HOUR, None),
        (90, 5 * HOUR - 300, 5 * HOUR, None),  # five minutes after the beginning
        (0, 3 * HOUR, 5 * HOUR, None),
        (100, 3 * HOUR, 5 * HOUR, 0),
        (103, None, None, 0),
        (99, None, 5 * HOUR, None),
        (99, 3 * HOUR, None, None),
    ],
)
def test_when_a_window_is_used_up_at_its_rate_so_far(
    used: float, resets: float | None, length: float | None, up: float | None
) -> None:
    found = window("5h", used, resets, length).used_up
    assert found == (None if up is None else NOW + up)
