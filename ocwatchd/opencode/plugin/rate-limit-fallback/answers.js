// ocwatchd companion plugin, version 1
//
// Model requests and their answers: facts/PID.jsonl has the refused ones, allowances/ what a provider says is left.
// Of headers only Retry-After and the rate-limit ones are kept.

import { renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"

const FACTS_CAP = 1 << 20 // bytes, then the file is set aside once as PID.jsonl.1
const ANNOUNCED = 64 // requests announced by OpenCode; one entry per session, model and agent
const ALLOWANCE = /^(anthropic|x)-ratelimit-[a-z-]+$/i // numbers and times
const TOLD = ["session", "provider", "model", "agent", "small"]
const SESSION_HEADERS = ["x-session-id", "x-session-affinity", "x-opencode-session"]

export function part({ shared, state, attempt, append, privateDirectory }) {
  const facts = join(state, "facts")
  const allowances = join(state, "allowances")
  shared.announced ??= [] // model requests that OpenCode is about to make
  shared.allowed ??= new Map() // file of allowances -> when it was written

  /** OpenCode is about to make a model request: remember for whom, until the request itself is seen. */
  function announce({ sessionID, agent, model, provider }) {
    const by = typeof agent === "string" ? agent : agent?.name
    const url = provider?.options?.baseURL ?? provider?.info?.options?.baseURL ?? model?.api?.url
    const entry = {
      session: sessionID,
      provider: model?.providerID,
      model: model?.id ?? model?.modelID,
      agent: by,
      small: by === "title" || by === "summary",
      words: [model?.api?.id, model?.id].filter(Boolean), // the provider may know the model by another name
      url: /^http/.test(url) ? url.replace(/\/+$/, "") : "",
      pending: true,
    }
    const same = (old) => ["session", "provider", "model", "agent"].every((key) => old[key] === entry[key])
    shared.announced = [...shared.announced.filter((old) => !same(old)), entry].slice(-ANNOUNCED)
  }

  /** See the answers of model requests, whoever makes them. OpenCode looks `fetch` up at every request. */
  function watch() {
    if (shared.fetch) return
    const inner = (shared.fetch = globalThis.fetch)
    const watched = async function (...call) {
      const about = attempt("fetch", () => requestOf(...call))
      const response = await inner.apply(this, call)
      if (about && response?.status >= 400) attempt("facts", () => record(about, response))
      if (about && response) attempt("allowances", () => noteAllowance(about, response))
      return response
    }
    globalThis.fetch = Object.assign(watched, inner)
  }

  /** Whose request this is; undefined for everything that is no model request. */
  function requestOf(input, init) {
    if (String(init?.method ?? input?.method).toUpperCase() !== "POST") return
    const url = String(input?.url ?? input)
    const session = sessionIn(new Headers(init?.headers ?? input?.headers ?? {}))
    const known = session ? shared.announced.filter((entry) => entry.session === session) : shared.announced
    const head = typeof init?.body === "string" ? init.body.slice(0, 300) : ""
    const named = known.filter((entry) => mayBe(entry, url, head))
    const waiting = named.filter((entry) => entry.pending)
    const [first, ...rest] = waiting.length ? waiting : named
    if (first) first.pending = false
    if (!session && !first) return
    // Two sessions that ask one model at one moment cannot be told apart by it: then the session stays unknown.
    const agreed = TOLD.filter((key) => first && rest.every((other) => other[key] === first[key]))
    return { session, url, ...Object.fromEntries(agreed.map((key) => [key, first[key]])) }
  }

  function record({ session = null, provider = null, model = null, agent = null, small = null, url }, response) {
    const after = response.headers.get("retry-after")?.slice(0, 100)
    const milliseconds = Number.parseFloat(response.headers.get("retry-after-ms"))
    const fact = {
      version: 1,
      time: new Date().toISOString(),
      pid: process.pid,
      ...{ session, provider, model, agent, small },
      status: response.status,
      ...(after && { retry_after: after }),
      ...(Number.isFinite(milliseconds) && { retry_after_ms: milliseconds }),
      url_host: new URL(url).host,
    }
    privateDirectory(facts)
    append(join(facts, `${process.pid}.jsonl`), JSON.stringify(fact), FACTS_CAP)
  }

  /** What the provider says is left: the latest of each model, in a file of its own, at most one a second. */
  function noteAllowance({ provider, model }, response) {
    if (!provider || !model) return
    const headers = [...response.headers].filter(([name]) => ALLOWANCE.test(name)).slice(0, 24)
    const path = join(allowances, `${encodeURIComponent(`${provider}/${model}`).slice(0, 200)}.json`)
    if (!headers.length || Date.now() - (shared.allowed.get(path) ?? 0) < 1000) return
    shared.allowed.set(path, Date.now())
    privateDirectory(allowances)
    const told = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value.slice(0, 64)]))
    const about = { version: 1, time: new Date().toISOString(), model: `${provider}/${model}`, headers: told }
    writeFileSync(`${path}.${process.pid}.tmp`, JSON.stringify(about) + "\n", { mode: 0o600 })
    renameSync(`${path}.${process.pid}.tmp`, path)
  }

  return { announce, watch }
}

const sessionIn = (headers) => SESSION_HEADERS.map((name) => headers.get(name)).find((id) => id?.startsWith("ses_"))

/** By the name in the request, which most protocols put first in the body and the others in the path. */
function mayBe(entry, url, head) {
  if (!url.startsWith(entry.url)) return false
  const path = `${decodeURIComponent(new URL(url).pathname)}/`
  return entry.words.some((word) => head.includes(`"model":${JSON.stringify(word)}`) || namesIn(path, word))
}

/** As a segment of its own: `/models/NAME:stream`, `/model/us.NAME/converse` (a region may stand before it). */
function namesIn(path, word) {
  const at = path.indexOf(word)
  return at > 0 && "/.".includes(path[at - 1]) && "/:".includes(path[at + word.length])
}
