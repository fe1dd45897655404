"""Tests of what is hidden in a text and what stays: keys of every form, whatever surrounds them."""

from __future__ import annotations

import base64
import random
import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ocwatchd.core.text.redact import HIDDEN, redact

HOME = "/home/jane"
MADE_UP = random.Random(7)


def chars(alphabet: str, length: int) -> str:
    return "".join(MADE_UP.choice(alphabet) for _ in range(length))


HEX, BASE62 = "0123456789abcdef", string.ascii_letters + string.digits
KEYS = {
    "hex 32 (Azure)": lambda: chars(HEX, 32),
    "hex 32 in capitals": lambda: chars(HEX, 32).upper(),
    "hex 64": lambda: "0x" + chars(HEX, 64),
    "id.secret (Z.ai)": lambda: f"{chars(HEX, 32)}.{chars(BASE62, 16)}",
    "UUID (Volcengine)": lambda: "-".join(chars(HEX, n) for n in (8, 4, 4, 4, 12)),
    "SendGrid": lambda: f"SG.{chars(BASE62, 22)}.{chars(BASE62, 43)}",
    "OpenAI": lambda: f"sk-proj-{chars(BASE62 + '_-', 60)}",
    "Anthropic": lambda: f"sk-ant-api03-{chars(BASE62 + '_-', 80)}-AA",
    "OpenRouter": lambda: f"sk-or-v1-{chars(HEX, 64)}",
    "GitHub": lambda: f"ghp_{chars(BASE62, 36)}",
    "GitHub, fine-grained": lambda: f"github_pat_{chars(BASE62, 22)}_{chars(BASE62, 59)}",
    "GitLab": lambda: f"glpat-{chars(BASE62, 20)}",
    "Slack": lambda: f"xoxb-{chars(string.digits, 12)}-{chars(BASE62, 24)}",
    "Google": lambda: f"AIzaSy{chars(BASE62 + '_-', 33)}",
    "Google, OAuth": lambda: f"ya29.{chars(BASE62 + '_-', 60)}",
    "AWS id": lambda: f"AKIA{chars(string.ascii_uppercase + '234567', 16)}",
    "AWS secret": lambda: chars(BASE62 + "/+", 40),
    "JWT": lambda: "eyJhbGciOiJIUzI1NiJ9." + chars(BASE62, 30) + "." + chars(BASE62 + "_-", 43),
    "Hugging Face": lambda: f"hf_{chars(BASE62, 34)}",
    "Groq": lambda: f"gsk_{chars(BASE62, 52)}",
    "NVIDIA": lambda: f"nvapi-{chars(BASE62 + '_-', 64)}",
    "xAI": lambda: f"xai-{chars(BASE62, 80)}",
    "Perplexity": lambda: f"pplx-{chars(HEX, 48)}",
    "Replicate": lambda: f"r8_{chars(BASE62, 37)}",
    "npm": lambda: f"npm_{chars(BASE62, 36)}",
    "Mailgun": lambda: f"key-{chars(string.ascii_lowercase + string.digits, 32)}",
    "Telegram": lambda: f"{chars(string.digits, 9)}:AA{chars(BASE62 + '_-', 33)}",
    "Discord": lambda: f"MTk4{chars(BASE62, 20)}.{chars(BASE62, 6)}.{chars(BASE62 + '_-', 27)}",
    "Stripe": lambda: f"rk_live_{chars(BASE62, 24)}",
    "Docker": lambda: f"dckr_pat_{chars(BASE62, 27)}",
    "age": lambda: f"AGE-SECRET-KEY-1{chars(string.ascii_uppercase + string.digits, 58)}",
    "base64": lambda: base64.b64encode(MADE_UP.randbytes(32)).decode(),
    "base32": lambda: chars(string.ascii_uppercase + "234567", 32),
    "small letters and digits": lambda: chars(string.ascii_lowercase + string.digits, 32),
    "letters and digits": lambda: chars(BASE62, 24),
    "e-mail": lambda: "jane.doe+x@mail.example.com",
    "ssh remote": lambda: "git@git.example.com:acme/private.git",
}
AROUND = (
    "refused: {} is limited",
    "{}",
    '{{"x": "{}"}}',
    "for key {}.",
    "x={}&y=1",
    "[{}]",
    "密钥{}无效",
    "at\t{}\nnext",
)


@pytest.mark.parametrize("shape", KEYS)
def test_a_key_is_hidden_whatever_stands_around_it(shape: str) -> None:
    for around in AROUND:
        key = KEYS[shape]()
        shown = redact(around.format(key))
        parts = [part for part in key.replace("/", "-").replace(".", "-").split("-") if len(part) > 9]
        assert HIDDEN in shown
        assert not [part for part in (key, *parts) if part in shown]


SAID = (
    "the password is {}", "Password: {}", "password={}", "password => '{}'", "pass {}1", "passphrase was {}.",
    "pwd:{}", "PGPASSWORD={} psql", '{{"password": "{}"}}', '{{"password":"{} with blanks"}}',
    r'{{\"apiKey\":\"{}\"}}', "<password>{}</password>", "--token {}", "--token={}", "--api-key {} --verbose",
    "api_key={}", "apiKey: {}", "X-Gotify-Key: {}", "-H 'X-Api-Key: {}'", "Authorization: Bearer {}",
    "Authorization: Basic {}", "Authorization: {}", "Bearer {}.abc", "Cookie: sid={}", "Set-Cookie: {}",
    "client_secret: {}", "clientSecret={}", "secret is {}", "AccountKey={};x", "?sig={}&x=1", "token: {}",
    "curl --user me:{}", "curl -u me:{} https://x.example", "https://me:{}@host/x",
    "https://{}@github.com/acme/r.git", "git+https://x-access-token:{}@github.com/acme/r.git",
    "postgres://me:{}@db/x", "https:\\/\\/me:{}@h\\/x", "remote=https://me:{}@h/x", "me:{}@host", "密码是{}",
    "密码：{}",
    "令牌: {}", "contraseña: {}", "mot de passe : {}", "mot de passe est {}", "Passwort: {}", "Kennwort ist {}",
    "пароль: {}", "senha: {}", "パスワード：{}", "pin is {}", "dsn={}", "the token '{}1' is invalid", "token {}1",
    "with password 'p@ss {}'", "//me:{}@host/path", "arn:aws:iam::123456789012:user/{}",
)  # fmt: skip
"""Words that are secret because of the text around them."""


@pytest.mark.parametrize("said", SAID)
def test_what_is_called_a_secret_is_hidden_whatever_it_looks_like(said: str) -> None:
    assert "swordfish" not in redact(said.format("swordfish"))


LEAVES = (
    "https://ntfy.sh/swordfish", "curl -d hi ntfy.sh/swordfish", "https://hooks.slack.com/services/T0/B0/swordfish",
    "https://discord.com/api/webhooks/123/swordfish", "https://api.telegram.org/bot123:swordfish/sendMessage",
    "https://x.example/?q=swordfish", "https://api.openai.com/v1?key=swordfish", "/home/swordfish/work",
    "in /Users/swordfish.", r"C:\Users\swordfish\work", "file:///home/swordfish/x", "%2Fhome%2Fswordfish%2Fx",
    "-home-swordfish-work", "~swordfish/x", "/var/home/swordfish/x",
)  # fmt: skip


@pytest.mark.parametrize("text", LEAVES)
def test_addresses_and_other_homes_do_not_leave_the_machine(text: str) -> None:
    assert "swordfish" not in redact(text, HOME)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/.config", "~/.config"), ("in /home/jane.", "in ~."), ("/home/janet/x", f"/home/{HIDDEN}/x"),
        ("/media/jane/disk", f"/media/{HIDDEN}/disk"), ("from 203.0.113.7:443", f"from {HIDDEN}:443"),
        ("http://127.0.0.1:4096/session", "http://127.0.0.1:4096/session"),
    ],
)  # fmt: skip
def test_homes_and_network_addresses(text: str, shown: str) -> None:
    assert redact(text, HOME) == shown
    if "jane/" in text:
        assert redact(text) == text, "on this machine a path is of use"


@pytest.mark.parametrize("broken", ["\n", "\\n", " "])
@pytest.mark.parametrize("end", ["-----END RSA PRIVATE KEY----- and more", ""])
def test_a_block_of_pem_is_hidden_also_if_it_is_cut_off(broken: str, end: str) -> None:
    block = broken.join(["-----BEGIN RSA PRIVATE KEY-----", "MIIEabc", "short", end])
    shown = redact(f"key: {block}")
    assert "MIIE" not in shown and "short" not in shown
    assert shown.endswith(" and more") == bool(end)


STAYS = (
    "ses_dfb805d5effeAhniXR1ZvNfJ1V", "001a2047fb086d99533b7", "request id: req_011CSHoEeqs5C35K2UUqR7Fy",
    "2026-11-22T10:08:53.256Z", "~/x/log/2026-11-22T155004.log", "1.18.33 and 0.0.0-dev-202609212252",
    "after 156h0m34s", "github-copilot/claude-sonnet-4", "openrouter/anthropic/claude-sonnet-4.5:free",
    "claude-3-5-sonnet-v2@20241022", "us.anthropic.claude-sonnet-4-20250514-v1:0",
    "accounts/fireworks/models/llama-v3p1-405b-instruct", "mixtral8x7b", "Qwen/Qwen2.5-72B-Instruct-Turbo",
    "xai/grok-4-fast-reasoning", "hf-inference/Qwen3-32B", "moonshotai/Kimi-K2-Instruct-0905",
    "Rate limit reached for gpt-4o in organization org-abc123 on tokens per min (TPM): Limit 30000, Used 29000",
    "limit on input tokens: 40000 per minute; token limit: 12345678", "Incorrect API key provided",
    "the API key is missing", "token is expired", "password is required", "no key for openai", "Basic plan limit",
    "Bearer token missing", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "limitUserByModelByDay",
    "AI_NoSuchToolError: 429", "insufficient_quota",
    "generativelanguage.googleapis.com/generate_content_free_tier_requests",
    "https://docs.anthropic.com/en/api/rate-limits", "https://openrouter.ai/settings/credits",
    "@ai-sdk/openai-compatible", "npm i opencode-ai@latest", "HTTP/1.1 429", "http://localhost:1/session/ses_abc",
    "免费额度已用完，请稍后再试", "limite atteinte, réessayez à 15 h",
    "/var/lib/some/quite/long/directory/name/with/many/parts/x1", "/opt/homebrew/bin/opencode",
)  # fmt: skip


@pytest.mark.parametrize("text", STAYS)
def test_what_helps_stays(text: str) -> None:
    assert redact(text) == redact(text, HOME) == text


CONTEXT = st.text(alphabet=st.sampled_from("aZ1 :=/@.\"'\\-_?&%~é\n#(<key]"), max_size=30)


@example("1", "://", False)
@example("", "://host", True)
@given(CONTEXT, CONTEXT, st.booleans())
def test_no_context_saves_a_key(before: str, behind: str, leaves: bool) -> None:
    for key in ("9f86d081884c7d659a2feaa0c55ad015", "sk-proj-Ab3dEf6hIj9lMn2pQr5tUv8x"):
        assert key not in redact(before + key + behind, HOME if leaves else None)


@pytest.mark.parametrize(
    "piece",
    ["/", "a/", "/a", "a=", "a&", "a.a", "a@", "://", "a:", "key ", "password ", "-", "https://", "-----BEGIN ", "\\",
     "a1", "'", '"', 'key="', "/home/", "é", "密码", "sk-", "a-b_c.", "=:", "x\n", "%2Fhome%2F", "1.", "Ab",
     "a" * 63 + " "],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """Before, 64 KiB of slashes took 25 s; a mebibyte of anything takes about one second."""
    begun = time.process_time()
    redact(piece * ((1 << 20) // len(piece.encode())), HOME)
    assert time.process_time() - begun < 15
