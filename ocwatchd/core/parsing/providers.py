"""Find the provider of a request by its address. The log itself shows which addresses a provider uses; otherwise, the
list of well-known hosts applies.

Under load, every fourth error record in the log format before 1.17 names the wrong provider, but the address is always
correct.
"""

from __future__ import annotations

import re
from collections import OrderedDict

_BASE = re.compile(
    r"(?P<base>https?://[^/?#\s]+(?:/[^?#\s]*?)?)"
    r"(?:/(?:chat/)?completions|/messages|/responses|/(?:models?|deployments)/[^?#\s]*)?/?(?:[?#]\S*)?$"
)
_KEPT = 512
"""Maximum number of addresses and models that are kept. A configuration contains at most a few dozen."""

_HOSTS: tuple[tuple[str, str], ...] = (
    ("api.anthropic.com", "anthropic"),
    ("api.openai.com", "openai"),
    ("chatgpt.com/backend-api", "openai"),
    ("generativelanguage.googleapis.com", "google"),
    ("aiplatform.googleapis.com", "google-vertex"),
    ("githubcopilot.com", "github-copilot"),
    ("openrouter.ai", "openrouter"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral"),
    ("api.deepseek.com", "deepseek"),
    ("api.x.ai", "xai"),
    ("api.cerebras.ai", "cerebras"),
    ("api.z.ai/api/coding", "zai-coding-plan"),
    ("api.z.ai", "zai"),
    ("open.bigmodel.cn/api/coding", "zhipuai-coding-plan"),
    ("open.bigmodel.cn", "zhipuai"),
    ("dashscope-intl.aliyuncs.com", "alibaba"),
    ("dashscope.aliyuncs.com", "alibaba-cn"),
    ("api.moonshot.ai", "moonshotai"),
    ("api.moonshot.cn", "moonshotai-cn"),
    ("api.minimax.io", "minimax"),
    ("api.minimaxi.com", "minimax-cn"),
    ("ollama.com", "ollama-cloud"),
    ("opencode.ai/zen/go", "opencode-go"),
    ("opencode.ai/zen", "opencode"),
    ("ai-gateway.vercel.sh", "vercel"),
    ("gateway.ai.cloudflare.com", "cloudflare-ai-gateway"),
    ("openai.azure.com", "azure"),
    ("cognitiveservices.azure.com", "azure-cognitive-services"),
    ("amazonaws.com", "amazon-bedrock"),
    ("api.together.xyz", "togetherai"),
    ("api.fireworks.ai", "fireworks-ai"),
    ("integrate.api.nvidia.com", "nvidia"),
    ("router.huggingface.co", "huggingface"),
    ("api.cohere.com", "cohere"),
    ("api.perplexity.ai", "perplexity"),
)
"""Parts of hosts and paths, each with the provider's name in OpenCode's catalog. More specific entries come first."""


WELL_KNOWN = frozenset(name for _, name in _HOSTS)
"""Providers that OpenCode's catalog is known to contain."""


def base_of(url: str) -> str | None:
    """Return the part of a request's address that is specific to the provider (`baseURL`), or None."""
    match = _BASE.match(url)
    return match["base"] if match else None


class Providers:
    """The facts about providers that are known from one process's log so far. Memory use is bounded."""

    def __init__(self) -> None:
        """Initialize the object with only the well-known hosts."""
        self._bases: OrderedDict[str, set[str]] = OrderedDict()
        self._models: OrderedDict[str, set[str]] = OrderedDict()
        self._sdks: OrderedDict[str, str] = OrderedDict()
        self._names: set[str] = set()

    def knows(self, provider: str, model: str | None = None, sdk: str | None = None) -> None:
        """Record that a provider exists, with one of its models or its SDK, according to a reliable record."""
        if len(self._names) < _KEPT:
            self._names.add(provider)
        if model:
            _add(self._models, model, provider)
        if sdk:
            self._sdks[provider] = sdk
            _trim(self._sdks)

    def learn(self, url: str, provider: str) -> None:
        """Record that this provider is proven to use `url`."""
        base = base_of(url)
        if base:
            _add(self._bases, base, provider)

    def of_url(self, url: str | None) -> str | None:
        """Return the provider that is known to use this address, or None unless there is exactly one."""
        base = base_of(url) if url else None
        names = self._bases.get(base, set()) if base else set()
        return next(iter(names)) if len(names) == 1 else None

    def has_other_address(self, provider: str, url: str | None) -> bool:
        """Return whether the provider is known to use other addresses but not this one."""
        base = base_of(url) if url else None
        bases = [known for known, names in self._bases.items() if provider in names]
        return base is not None and bool(bases) and base not in bases

    def of_model(self, model: str | None, url: str | None) -> str | None:
        """Return the provider that has this model and may use this address, or None unless there is exactly one."""
        names = {p for p in self._models.get(model or "", ()) if not self.has_other_address(p, url)}
        return next(iter(names)) if len(names) == 1 else None

    def well_known(self, url: str | None) -> str | None:
        """Return the provider of a well-known address. Return None if, according to the log, that provider is
        configured under another name.
        """
        base = base_of(url) if url else None
        if base is None:
            return None
        place = base.partition("://")[2]
        host = place.partition("/")[0].partition(":")[0]
        for part, provider in _HOSTS:
            part_host, _, path = part.partition("/")
            if (host == part_host or host.endswith("." + part_host)) and (not path or f"/{path}" in place):
                return provider if not self._names or provider in self._names else None
        return None

    def may_send_error(self, provider: str, shape: str) -> bool:
        """Return whether the provider may send an error of this shape in the middle of an answer. Return True if the
        provider's SDK is unknown.
        """
        sdk = self._sdks.get(provider, "")
        api = next((name for name in ("anthropic", "openai-compatible", "openai", "google") if f"/{name}" in sdk), None)
        return api is None or not shape or shape == api


def _add(table: OrderedDict[str, set[str]], key: str, value: str) -> None:
    table.setdefault(key, set()).add(value)
    table.move_to_end(key)
    _trim(table)


def _trim(table: OrderedDict[str, set[str]] | OrderedDict[str, str]) -> None:
    while len(table) > _KEPT:
        table.popitem(last=False)
