"""Redact secrets in untrusted text: keys, passwords, addresses, home directories. Pure functions.

The redaction uses an allow-list. It reads a text in a single pass, word by word, and a word passes if it looks like
text that people and models write: words, short numbers, model names, versions, times, the ids of OpenCode's own
objects, and addresses of well-known hosts. Any long, random word is hidden, so a key is hidden even if its format is
unknown. The list of known key formats (`_KEYS`) is needed only for keys whose parts look harmless. The value of any
field named as a password, key, token or cookie is hidden, regardless of its format.

Redaction takes time linear in the length of the text, because every expression is a character class or examines a piece
of limited length.

`reason_of` reduces a provider's text to a form that may be stored and shown: one line, truncated, and without any
secret. Providers quote what they received: keys ("Incorrect API key provided: sk-…"), headers, addresses with a
password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise

from ocwatchd.core.text.safe_regex import late

HIDDEN = "[hidden]"

_WORD = re.compile(r"[A-Za-z0-9_.~+/=%@:&?#*\\$!|^-]+")
"""A pattern for a word that is judged as a whole: an address, a path, `name=value`, a key."""
_RUN = re.compile(r"[A-Za-z0-9]+")
_END = ".:!?"
"""Punctuation characters that may follow a word."""

_NAME = late(
    r"(?:^|.*[-_.\\/]|.*(?=[A-Z]))(?i:pass(?:word|wd|phrase|code)?|pwd|pw|basic|secret|credentials?|apikeys?|keys?|token|auth"
    r"|authorization|authentication|bearer|cookie|sig|signature|otp|pin|dsn|passwort|kennwort|contrasena|clave|senha|passe|jwt)$"
)
"""A pattern for the end of a secret's name: `api_key`, `X-Gotify-Key`, `clientSecret`, `--password`. `tokens` is not
included, because it usually precedes a count.
"""
_JOINED = (
    "apikey",
    "accesskey",
    "secretkey",
    "accountkey",
    "authtoken",
    "accesstoken",
    "password",
    "passwd",
    "passphrase",
)
_PASSWORDS = late(r"(?i)(?:pass\w*|pwd|pw|pin|otp|secret|kennwort|contrasena|clave|senha)$")
"""A pattern for the names of secrets whose value may be a plain word or number. The value of a key or token is never a
plain word or number.
"""
_FOREIGN = late(
    r"(?i)(?:密码|密碼|口令|密钥|密鑰|令牌|パスワード|비밀번호|пароль|ключ|токен|contraseña|hasło|schlüssel|clé)"
    r"\s{0,2}(?:是|为|為|は|:|：|=|->|es|est|ist|is)?\s{0,2}[\"'“「]?$"
)
_FOREIGN_DISTANCE = 40
"""Number of characters before a word that are searched for a secret's name in another language."""
_FILLERS = frozenset(
    "is was are provided of value est ist es bearer basic digest token apikey your the my this following set to".split()
)
"""Words that may occur between the name and the secret."""
_SAYING = frozenset(("is", "was", "est", "ist", "es", "to"))
"""Verbs and prepositions that may precede the value of a secret."""
_STATES = frozenset(
    "a absent active already also an and are as at auth authentication authorization been being blocked bucket "
    "budget but by can cannot changed compromised configured could count deactivated denied did disabled does "
    "empty enabled encrypted exceeded exhausted expired failed false file for forbidden from had has have hidden if in "
    "inactive incorrect invalid is it leaked limit limited limits malformed may might missing must name needed "
    "never no none not null on or out over per present protected quota rate reached redacted rejected remaining "
    "removed required revoked should still store suspended they too true type unauthorized undefined unknown "
    "unset usage used valid was we were will window with would wrong you".split()
)
"""Words that describe the state of a secret, and are therefore not its value."""

_KEYS = late(
    r"(?:sk|pk|rk|gsk|gh[oprsu]|github_pat|glpat|gldt|xox[a-z]|xapp|ya29|nvapi|dop_v1|npm|pypi|whsec|shpat|figd"
    r"|lin_api|ntn|secret|key|SG|AGE-SECRET-KEY|eyJ[\w-]{4,}|hf|xai|pplx|fw|tvly|sess|r8|tk|dckr_pat|pat|rnd|sbp|vcp|bot"
    r"\d+)[-_.:](?P<rest>[\w.*+/=-]{8,})$|(?:AIza|AKIA|ASIA|AROA)[\w*-]{8,}$|eyJ[\w-]{8,}$"
)
_SURE = late(
    r"(?:sk|pk|rk|gsk|gh[a-z]|github_pat|glpat|xox[a-z]|xapp|ya29|nvapi|SG|whsec|dckr_pat|AGE|AIza|AKIA|ASIA|eyJ)"
)
"""Prefixes that identify a word as a key, regardless of what follows. The other prefixes in `_KEYS` may also begin a
name, as in `hf-inference` or `xai-grok-beta`.
"""
_IDS = late(r"(?:ses|msg|prt|per|que|req|call|toolu|chatcmpl|gen|resp|run|evt|org|proj|hand)[-_][A-Za-z0-9]{1,40}$")
"""A pattern for ids of OpenCode's and providers' objects. They grant no access and help users find the object in other
logs.
"""
_OURS = re.compile(r"00[0-9a-f]{19}$")
"""A pattern for ids in ocwatchd's journal: milliseconds and 32 random bits, as hex digits."""
_TIME = late(r"\d{4}-?\d\d-?\d\d(?:[T_ -]?\d\d[:-]?\d\d(?:[:-]?\d\d(?:\.\d{1,9})?)?)?(?:Z|[+-]\d\d:?\d\d)?$")
_KNOWN = late(r"\d{2,8}T\d{4,6}Z?$|(?:\d{1,6}[dhms]){1,4}$|[a-z]{3,12}\d{1,3}x\d{1,3}b$|00[0-9a-f]{19}$")
"""A pattern for harmless words that look random: a time, a duration, the name of a mixture-of-experts model, an id from
ocwatchd's journal.
"""
_UUID = late(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHORT = frozenset("By To On Of In Is No My Up At As An Or If It Id Me We Do Go So Ms Ai Us".split())
_GROUPS = late(r"(?:[A-Za-z0-9]{4,8}-){3,20}[A-Za-z0-9]{4,8}$")
_HEX = re.compile(r"(?i)[0-9a-f]+$")
_IPV4 = late(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])")
_MAIL = late(r"[\w.+:-]+@(?P<domain>[A-Za-z][\w-]*(?:\.[\w-]+)*)(?::.*)?$")
_USERINFO = late(r"[\w.%+-]+:[^/@\s]+@")
_TAGS = frozenset(("latest", "next", "beta", "alpha", "dev", "canary", "default"))
_SCHEME = late(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,20}):(?:\\?/){2}")
_DOMAIN = late(
    r"(?:[\w-]+\.)+(?:sh|com|io|net|org|dev|app|ai|me|co|cloud|xyz|cn|de|eu|uk|fr|info|page|site)(?::\d+)?/."
)
_PUBLIC = tuple(
    "openai.com chatgpt.com anthropic.com claude.com claude.ai openrouter.ai opencode.ai groq.com mistral.ai "
    "deepseek.com x.ai cerebras.ai z.ai bigmodel.cn aliyun.com aliyuncs.com moonshot.ai moonshot.cn minimax.io "
    "minimaxi.com googleapis.com google.com google.dev githubcopilot.com amazonaws.com microsoft.com azure.com "
    "huggingface.co hf.co fireworks.ai together.ai together.xyz perplexity.ai nvidia.com volces.com "
    "volcengine.com cohere.com siliconflow.cn siliconflow.com vercel.com novita.ai deepinfra.com npmjs.org "
    "localhost 127.0.0.1 [::1] ollama.com kimi.com grok.com aka.ms ai.studio ai.dev docs.github.com "
    "docs.gitlab.com".split()
)
"""Hosts with public paths, such as documentation and APIs. On other hosts, the path may be the secret (of a webhook or
an ntfy topic).
"""
_HOME = late(r"(?i)((?:/|\\{1,2}|%2F)(?:home|users)(?:/|\\{1,2}|%2F))(?!\[)([^/\\\s\"':;,%<>|]+)")
_TILDE_HOME = late(r"(?<![\w/~.])~([A-Za-z][\w.-]*)(?=/)")
_FLAT_HOME = late(r"(?<![A-Za-z0-9])(-(?:home|Users)-)([A-Za-z0-9]+)")
"""A pattern for a home directory in a path whose slashes are written as dashes. Tools use such names for project
directories.
"""
_USER_FLAGS = frozenset(("-u", "--user", "--proxy-user", "-U"))
"""Options of curl that are followed by `name:password`."""
_QUOTES = ('"', "'", "`")
_BEGIN, _FINISH = "-----BEGIN ", "-----END "


def redact(text: str, home: str | None = None, mark: str = HIDDEN) -> str:
    """Return `text` with all parts hidden except those that look harmless.

    Pass the user's `home` if the text is going to leave this machine. The home directory is then written as `~`. Other
    users' homes, network addresses, and paths on hosts that are not public are hidden (the path of a webhook or an ntfy
    topic is a secret).
    """
    if home is None:
        return _read(text, mark, leaves=False)
    home = home.rstrip("/")
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w-]|\.\w)", "~", text)
    user = home.rpartition("/")[2]
    if len(user) > 2 and user not in ("root", "home"):
        text = re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", lambda _: mark, text)
    text = _read(text, mark, leaves=True)
    text = _TILDE_HOME().sub(lambda _: f"~{mark}", text)
    text = _HOME().sub(lambda found: f"{found[1]}{mark}", text)
    return _FLAT_HOME().sub(lambda found: f"{found[1]}{mark}", text)


def _read(text: str, mark: str, leaves: bool) -> str:
    text = "".join(_Reader(mark, leaves).pieces(_without_blocks(text, mark)))
    for scheme in ("Bearer", "bearer", "Basic", "basic"):
        text = text.replace(f"{scheme} {mark}", mark)
    return text


class _Sign(IntEnum):
    """How the name of a secret and the word that may be its value are connected."""

    BESIDE = 0  # side by side, as in "token abc"
    SAID = 1  # with a verb, as in "the token is abc"
    GIVEN = 2  # with a sign, as in "token: abc", "token=abc", "--token abc"


@dataclass(frozen=True, slots=True)
class _Named:
    """The name of a secret that was just read, and how the next word is connected to it."""

    name: str
    sign: _Sign

    def but(self, sign: _Sign) -> _Named:
        return _Named(self.name, max(sign, self.sign))

    def hides(self, core: str) -> bool:
        """Return whether this word is the value of the secret and not a statement about the secret."""
        if self.name in _USER_FLAGS:
            return ":" in core
        if core.lower() in _STATES or not core.strip("*") or (self.name.startswith("-") and core.startswith("-")):
            return False
        password = _PASSWORDS().search(self.name) is not None
        if core.isdecimal() and len(core) < 10:  # `token limit: 5000` is a count, but a PIN is not
            return password and self.sign >= _Sign.SAID
        if self.sign is _Sign.GIVEN or (self.sign is _Sign.SAID and password):
            return True
        return len(core) >= 20 or not core.isalpha() or not (core.islower() or core.istitle() or core.isupper())


class _Reader:
    """The state of a single pass over one text."""

    def __init__(self, mark: str, leaves: bool) -> None:
        """Begin a pass. No name of a secret has been read yet. `leaves`: whether the text will leave this machine."""
        self._mark, self._leaves = mark, leaves
        self._named: _Named | None = None

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the redacted text, piece by piece."""
        at, foreign = 0, not text.isascii()
        for found in _WORD.finditer(text):
            if found.start() < at:  # the word belongs to a quoted secret that has already been read
                continue
            gap = text[at : found.start()]
            self._cross(gap)
            if foreign and _FOREIGN().search(text[max(found.start() - _FOREIGN_DISTANCE, 0) : found.start()]):
                self._named = _Named("password", _Sign.GIVEN)
            yield gap
            core = found[0].rstrip(_END)
            if gap[-1:] in _QUOTES and any(map(str.isalnum, core)) and self._named and self._named.hides(core):
                ends = (text.find(gap[-1], found.start()), text.find("\n", found.start()))
                at = min((end for end in ends if end >= 0), default=len(text))
                self._named = None
                yield self._mark
            else:
                at = found.end()
                yield self._word(found[0])
        yield text[at:]

    def _cross(self, gap: str) -> None:
        """Process the characters between two words. If they begin a new clause, the last name no longer affects the
        following words.
        """
        if self._named is not None and any(char in ",;(){}[]\n\r" for char in gap):
            self._named = None
        elif self._named is not None and ">" in gap:
            self._named = self._named.but(_Sign.GIVEN)

    def _word(self, word: str) -> str:
        core = word.rstrip(_END)
        tail = word[len(core) :]
        named, self._named = self._named, None
        if not any(map(str.isalnum, core)):  # a sign such as `:`, `=` or `->`
            self._named = named and (named.but(_Sign.GIVEN) if any(char in ":=" for char in word) else named)
            return word
        if named is not None:
            if core.lower() in _FILLERS and not named.name.startswith("-"):
                said = _Sign.GIVEN if ":" in tail else _Sign.SAID if core.lower() in _SAYING else _Sign.BESIDE
                self._named = named.but(said)
                return word
            if named.hides(core):
                return self._mark + tail
        if core in _USER_FLAGS or _is_name(core.rstrip("=")):
            given = ":" in tail or core.startswith("-") or core.endswith("=")
            self._named = _Named(core.rstrip("="), _Sign.GIVEN if given else _Sign.BESIDE)
            return word
        return self._plain(core) + tail

    def _plain(self, core: str) -> str:
        """Return the redacted form of a word that does not follow the name of a secret."""
        address = _SCHEME().search(core)
        if address is not None and is_harmless(address[1]):
            before = core[: address.start()]
            return (self._plain(before) if before else "") + self._address(core[address.start() :], address[1])
        if "=" in core.rstrip("="):
            return "&".join(map(self._field, core.split("&")))
        name, colon, value = core.partition(":")
        if colon and value and _is_name(name):
            return f"{name}:{self._value(name, value)}"
        return self._judged(core)

    def _field(self, field: str) -> str:
        """Return the redacted form of `name=value`. The value is hidden if the name says that it is a secret, or if it
        looks like one.
        """
        name, sign, value = field.partition("=")
        if sign and value.strip("=") and _is_name(name.rpartition("?")[2]):
            return f"{name}={self._value(name, value)}"
        return f"{self._judged(name)}={self._judged(value)}" if sign and name and value else self._judged(field)

    def _value(self, name: str, value: str) -> str:
        return self._mark if _Named(name, _Sign.GIVEN).hides(value) else value

    def _judged(self, word: str) -> str:
        """Return the redacted form of a word, judged only by the word itself."""
        mail = _MAIL().fullmatch(word)
        if mail is not None and mail["domain"].lower() not in _TAGS:
            return self._mark
        if "@" in word and ":" in word:
            word = _USERINFO().sub(f"{self._mark}@", word)
        if word.startswith("arn:"):  # an ARN contains an account number and private names
            return self._mark
        if self._leaves and _DOMAIN().match(word) and not _is_public(word.partition("/")[0]):
            return f"{word.partition('/')[0]}/{self._mark}"
        if is_harmless(word) and not self._leaves:
            return word
        if is_harmless(word):
            return _IPV4().sub(lambda found: found[0] if _is_local(found[1]) else self._mark, word)
        return self._path(word) if word.startswith(("/", "~/", "./")) else self._mark

    def _path(self, path: str) -> str:
        """Return the path, with the parts that look like keys hidden. The other parts are kept, because they help the
        reader.
        """
        return "/".join(part if is_harmless(part) else self._mark for part in path.split("/"))

    def _address(self, address: str, scheme: str) -> str:
        """Return the redacted form of an address. The scheme, a harmless host and a harmless path are kept. If the text
        will leave this machine, paths on hosts that are not public are hidden.
        """
        at = _SCHEME().search(address)
        begin, rest = (address[: at.end()], address[at.end() :].replace("\\/", "/")) if at else ("", address)
        if scheme.lower() == "file":
            return begin + self._path(rest)
        authority, slash, path = rest.partition("/")
        authority, question, _ = authority.partition("?")
        user, _, host = authority.rpartition("@")
        shown = f"{self._mark}@" if user or authority.startswith("@") else ""
        shown += host if is_harmless(host) and not self._is_private(host) else self._mark
        if not slash:
            return begin + shown + (f"?{self._mark}" if question else "")
        path, asked, _ = path.partition("?")
        if path and not ((_is_public(host) or not self._leaves) and all(map(is_harmless, path.split("/")))):
            path = self._mark
        return f"{begin}{shown}/{path}" + (f"?{self._mark}" if asked else "")

    def _is_private(self, host: str) -> bool:
        found = _IPV4().match(host)
        return self._leaves and found is not None and not _is_local(found[1])


def _without_blocks(text: str, mark: str) -> str:
    """Return the text without its PEM blocks. A truncated block is hidden up to the end of the text."""
    at, begun = text.find(_BEGIN), 0
    kept = []
    while at >= 0:
        kept += [text[begun:at], mark]
        end = text.find(_FINISH, at)
        close = text.find("-----", end + len(_FINISH)) if end >= 0 else -1
        begun = len(text) if close < 0 else close + 5
        at = text.find(_BEGIN, begun)
    return "".join([*kept, text[begun:]])


def _is_name(word: str) -> bool:
    bare = word.strip("\\\"'*").lstrip("-")
    if len(bare) > 60 or not (_NAME().match(bare) or bare.lower().endswith(_JOINED)):
        return False
    return is_harmless(bare)  # a random word may end in KEY by chance


def _is_public(host: str) -> bool:
    name = host.lower()
    name = f"{name.partition(']')[0]}]" if name.startswith("[") else name.partition(":")[0]
    return any(name == known or name.endswith(f".{known}") for known in _PUBLIC)


def _is_local(address: str) -> bool:
    """Return whether the address can be shown, because it is a loopback address or is in fact a version number (one of
    its numbers is above 255).
    """
    numbers = [int(part) for part in address.split(".")]
    return numbers[0] in (0, 127) or max(numbers) > 255


# ---- classifying a word by its form


def is_harmless(word: str) -> bool:
    """Return whether a word looks like text written by people or models, and not like a key."""
    if word.isalpha() and len(word) < 12:
        return True
    known = _KEYS().match(word)
    if known is not None and (_SURE().match(word) or not _is_wordlike(known["rest"] or "")):
        return False
    if _IDS().match(word) or _OURS.match(word) or _TIME().match(word):
        return True
    return not _UUID().search(word) and not _is_grouped(word) and _is_wordlike(word)


def _is_grouped(word: str) -> bool:
    """Return whether the word is a key that consists of groups, such as `B2CMW-SLXQZ-PEIEH-6Q6HJ`."""
    return _GROUPS().match(word) is not None and sum(map(_is_half, word.split("-"))) > 1


def _is_half(run: str) -> bool:
    return not run.isalpha() and not run.isdecimal()


def _is_wordlike(word: str) -> bool:
    mixed = 0
    for run in _RUN.findall(word):
        if len(run) > 8 and not _is_natural(run):
            return False
        mixed += len(run) if _is_mixed(run) else 0
    return mixed < 16


def _is_natural(run: str) -> bool:
    """Return whether letters and digits alternate as they do in a name: `RateLimitError`, `mixtral8x7b`, `20250514`."""
    if run.isdecimal():
        return len(run) < 15
    if run.isalpha():
        return _is_written(run)
    if _KNOWN().match(run):
        return True
    most = 1 if len(run) >= 12 and run.isupper() else 2
    return len(run) < 20 and _turns(run) <= most and not (len(run) >= 16 and _HEX.match(run))


def _is_mixed(run: str) -> bool:
    return not _is_written(run) if run.isalpha() else _turns(run) > 1


def _is_written(run: str) -> bool:
    """Return whether these letters form one word, or several words that each begin with a capital."""
    if run.islower() or run.isupper():
        return len(run) <= 28
    small = large = 0
    for at, char in enumerate(run):
        if char.islower():
            small, large = small + 1, 0
        elif small == 1 and run[at - 2 : at] not in _SHORT:
            return False
        else:
            small, large = 0, large + 1
        if small > 20 or large > 6:
            return False
    return len(run) <= 80


def _turns(run: str) -> int:
    """Return the number of changes between letters and digits, or from lower case to upper case."""
    kinds = ["d" if char.isdecimal() else "u" if char.isupper() else "l" for char in run]
    return sum(one != other and (one, other) != ("u", "l") for one, other in pairwise(kinds))


REASON_CAP = 300
"""Maximum number of characters of a provider's message that are ever stored or shown."""


_READ_CAP = 4 * REASON_CAP


def reason_of(text: str, cap: int = REASON_CAP) -> str:
    """Return `text` in a form that may be stored and shown: printable, on one line, at most `cap` characters long, with
    secrets replaced by `[hidden]`.
    """
    # The text is redacted before it is truncated, because half a key is also a secret but no longer looks like one.
    return _one_line(text[:_READ_CAP])[:cap].strip()


@lru_cache(maxsize=64)
def _one_line(text: str) -> str:
    """Return the redacted text on one line. Results are cached, because a burst of limits repeats a few texts a
    thousand times.
    """
    line = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return " ".join(redact(line).split())
