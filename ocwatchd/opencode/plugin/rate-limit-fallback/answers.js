// ocwatchd companion plugin, version 1
//
// Watches model requests: records refused attempts in facts/PID.jsonl, and rate-limit headers in allowances/. Only
// Retry-After and the rate-limit headers are kept. A body is kept only if it is an error that was sent with a success
// status instead of an answer. OpenCode neither logs nor stores such an error, and repeats the request immediately and
// endlessly.
//
// It also records in keep-alives/PID.json when a provider last sent a keep-alive in an otherwise silent stream.
// OpenCode's events do not show keep-alives, so the daemon would treat such a stream as stalled.

import { join } from "node:path"

const FACTS_CAP = 1 << 20 // bytes after which the file is renamed to PID.jsonl.1
const ANNOUNCED = 64 // maximum number of stored announcements, one per session, model and agent
const ODD_CAP = 16 << 10 // bytes; a longer response counts as an answer
const BODY_CAP = 2000 // characters of an error's body that are kept
const STREAM = /event-stream|eventstream|ndjson|octet-stream|protobuf/i // media types of answers
const ANSWER_FIELDS = ["choices", "candidates", "content", "output"] // fields of an answer that is not streamed
const SECRET = /[A-Za-z0-9_-]{24,}/g // text that may be a key
const ALLOWANCES = [
  /^(anthropic|x)-ratelimit-[\w-]+$/i, // requests and tokens; `unified-5h-…` and `unified-7d_sonnet-…` are a plan's windows
  /^x-codex-([\w-]+-)?(primary|secondary)-(used-percent|window-minutes|reset-at|reset-after-seconds)$/i,
  /^x-(quota-snapshot|usage-ratelimit)-\w+$/i,
]
const FIGURES = /^[\w .,:;%=&+-]{1,160}$/ // numbers, times, state names, `ent=1500&rem=31.3`
const ALLOWANCES_CAP = 40
const ANNOUNCED_FIELDS = ["session", "provider", "model", "agent", "small"]
const LIMITED = [429, 503, 529] // statuses after which the daemon may start a cooldown
// maximum ms that a prompt waits for that cooldown; it takes 60 to 300 ms, 0.6 s at a load of 17
const DECIDES_WITHIN = 2000
const CHECK_INTERVAL = 10 // ms; a check is one stat
const BEATS_WITHIN = 10e3 // ms; a heartbeat older than this means that no daemon runs
const QUIET = 10e3 // ms without an event of the answer before a keep-alive is recorded, and between two records
const KEEP_ALIVE_CAP = 300 // bytes; a longer piece of a stream is more than a keep-alive
const KEPT_ALIVE = 300e3 // ms after which a session's last keep-alive is dropped from the file
// comments, and the events that an SDK drops: `ping` of Anthropic, `keepalive` of OpenAI
const KEEP_ALIVE = /^(?:(?::[^\n]*|event: ?(?:ping|keepalive)|data: ?\{"type": ?"(?:ping|keepalive)"[^\n]*)?\r?\n)+$/
const SESSION_HEADERS = ["x-session-id", "x-session-affinity", "x-opencode-session"]

export function part({ shared, state, attempt, append, replace, statOf, privateDirectory }) {
  const facts = join(state, "facts")
  const allowances = join(state, "allowances")
  const keepAlives = join(state, "keep-alives")
  shared.announced ??= [] // model requests that OpenCode is about to make
  shared.allowed ??= new Map() // path in allowances/ -> when it was last written
  shared.refused ??= new Map() // model -> time of its last refused attempt
  shared.keptAlive ??= new Map() // session -> time of the last recorded keep-alive

  /** Store the session of a model request that OpenCode is about to make, until `fetch` receives the request. */
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

  /** Wrap the global `fetch`, which OpenCode looks up for every request, to watch the responses to model requests. */
  function watch() {
    if (shared.fetch) return
    const inner = (shared.fetch = globalThis.fetch)
    const watched = async function (...call) {
      const about = attempt("fetch", () => requestOf(...call))
      const response = await inner.apply(this, call)
      if (about && response?.status >= 400) attempt("facts", () => record(about, response))
      else if (about && response?.ok) attempt("answer", () => checkAnswer(about, response))
      if (about && response) attempt("allowances", () => noteAllowance(about, response))
      if (about?.session && !about.small && response?.ok) attempt("stream", () => observe(about.session, response))
      return response
    }
    globalThis.fetch = Object.assign(watched, inner)
  }

  /** Return the announced request that a call to `fetch` makes; undefined for any other call. */
  function requestOf(input, init) {
    if (String(init?.method ?? input?.method).toUpperCase() !== "POST") return
    const url = String(input?.url ?? input)
    const session = sessionIn(new Headers(init?.headers ?? input?.headers ?? {}))
    const known = session ? shared.announced.filter((entry) => entry.session === session) : shared.announced
    const head = typeof init?.body === "string" ? init.body.slice(0, 300) : ""
    const named = known.filter((entry) => mayBe(entry, url, head))
    const waiting = named.filter((entry) => entry.pending)
    const [first, ...others] = waiting.length ? waiting : named
    if (first) first.pending = false
    if (!session && !first) return
    // Simultaneous requests of two sessions to one model cannot be distinguished, so the session is left out.
    const agreed = ANNOUNCED_FIELDS.filter((key) => first && others.every((other) => other[key] === first[key]))
    return { session, url, ...Object.fromEntries(agreed.map((key) => [key, first[key]])) }
  }

  /**
   * Record a response with a success status that contains an error instead of an answer. Only a response that is not a
   * stream is copied and read, and always to its end: canceling a copy ended the answer itself (Bun of 1.3.2 and
   * 1.18.33).
   */
  function checkAnswer(about, response) {
    const length = response.headers.get("content-length")
    const streams = STREAM.test(response.headers.get("content-type") ?? "")
    if (!response.body || (length ? Number(length) > ODD_CAP : streams)) return
    const noted = (text) => {
      const odd = oddity(text)
      if (odd) attempt("facts", () => record(about, response, odd))
    }
    response.clone().text().then(noted, () => {}) // OpenCode encounters the same fault in the answer itself
  }

  /** Append a refused attempt to facts/PID.jsonl; `odd` is the result of `oddity`. */
  function record(about, response, odd = {}) {
    const { session = null, provider = null, model = null, agent = null, small = null, url } = about
    if (provider && model && LIMITED.includes(response.status)) shared.refused.set(`${provider}/${model}`, Date.now())
    const after = response.headers.get("retry-after")?.slice(0, 100)
    const milliseconds = Number.parseFloat(response.headers.get("retry-after-ms"))
    const fact = {
      version: 1,
      time: new Date().toISOString(),
      pid: process.pid,
      ...{ session, provider, model, agent, small },
      status: response.status,
      ...odd,
      ...(after && { retry_after: after }),
      ...(Number.isFinite(milliseconds) && { retry_after_ms: milliseconds }),
      url_host: new URL(url).host,
    }
    privateDirectory(facts)
    append(join(facts, `${process.pid}.jsonl`), JSON.stringify(fact), FACTS_CAP)
  }

  /** Write the rate-limit headers of the model's latest answer to its file in allowances/, at most once per second. */
  function noteAllowance({ provider, model }, response) {
    if (!provider || !model) return
    const headers = [...response.headers].filter(isAllowance).slice(0, ALLOWANCES_CAP)
    const path = join(allowances, `${encodeURIComponent(`${provider}/${model}`).slice(0, 200)}.json`)
    if (!headers.length || Date.now() - (shared.allowed.get(path) ?? 0) < 1000) return
    shared.allowed.set(path, Date.now())
    privateDirectory(allowances)
    const values = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]))
    const about = { version: 1, time: new Date().toISOString(), model: `${provider}/${model}`, headers: values }
    replace(path, JSON.stringify(about) + "\n")
  }

  /**
   * Watch a streamed answer for keep-alives while OpenCode reads it. The body is replaced only when OpenCode first uses
   * it, and every piece of it is passed on unchanged.
   */
  function observe(session, response) {
    if (!STREAM.test(response.headers.get("content-type") ?? "")) return
    const { get } = Object.getOwnPropertyDescriptor(Response.prototype, "body")
    let last = Date.now() // time of the last piece that was more than a keep-alive, or of the last record
    const see = (piece) => {
      const now = Date.now()
      if (!isKeepAlive(piece)) last = now
      else if (now - last >= QUIET) noteKeepAlive(session, (last = now))
    }
    let body
    const observed = () => (body ??= passedOn(get.call(response), (piece) => attempt("stream", () => see(piece))))
    Object.defineProperty(response, "body", { configurable: true, enumerable: true, get: observed })
  }

  /** Write the times of the latest keep-alives of this process. */
  function noteKeepAlive(session, now) {
    const latest = [...shared.keptAlive.set(session, now)].filter(([, at]) => now - at < KEPT_ALIVE)
    shared.keptAlive = new Map(latest)
    privateDirectory(keepAlives)
    const sessions = Object.fromEntries(latest.map(([name, at]) => [name, new Date(at).toISOString()]))
    replace(join(keepAlives, `${process.pid}.json`), JSON.stringify({ version: 1, sessions }) + "\n")
  }

  /**
   * Wait until the daemon has started the cooldown of a model that was refused a moment ago, so that the prompt goes to
   * the fallback without being refused first. Waits at most DECIDES_WITHIN, and only while a daemon is running.
   */
  async function waitForCooldown(model, cooling) {
    const asked = Date.now()
    if (asked - (shared.refused.get(model) ?? 0) > DECIDES_WITHIN) return
    const running = () => Date.now() - (statOf(join(state, "daemon.json"))?.mtimeMs ?? 0) < BEATS_WITHIN
    while (!cooling() && Date.now() - asked < DECIDES_WITHIN && running()) {
      await new Promise((go) => setTimeout(go, CHECK_INTERVAL))
    }
  }

  return { announce, watch, waitForCooldown }
}

/** Return a stream with the same pieces, each of which `see` receives when it is read. Nothing is read in advance. */
function passedOn(body, see) {
  if (!body) return body
  let reader
  const pull = async (controller) => {
    reader ??= body.getReader()
    const { done, value } = await reader.read()
    if (done) return controller.close()
    see(value)
    controller.enqueue(value)
  }
  return new ReadableStream({ pull, cancel: (why) => (reader ?? body).cancel(why) }, { highWaterMark: 0 })
}

const isKeepAlive = (piece) => piece.length <= KEEP_ALIVE_CAP && KEEP_ALIVE.test(new TextDecoder().decode(piece))

/** Return {body} for an error, {page} for a web page; undefined for an answer, or if the text is unclear. */
function oddity(text) {
  const start = text.length > ODD_CAP ? "" : text.trimStart()
  if (start.startsWith("<")) return { page: true }
  if (!start.startsWith("{") && !start.startsWith("[")) return
  let parsed
  try {
    parsed = JSON.parse(start)
  } catch {
    return
  }
  const first = Array.isArray(parsed) ? parsed[0] : parsed
  if (!first || typeof first !== "object" || ANSWER_FIELDS.some((key) => key in first)) return
  if (!first.error && first.type !== "error" && !("code" in first) && !("detail" in first) && !("message" in first)) return
  return { body: start.slice(0, BODY_CAP).replace(SECRET, "…") }
}

/** Return whether a header is a rate-limit header. Headers whose values may contain a key are rejected. */
const isAllowance = ([name, value]) =>
  ALLOWANCES.some((names) => names.test(name)) && FIGURES.test(value) && value.search(SECRET) < 0

const sessionIn = (headers) => SESSION_HEADERS.map((name) => headers.get(name)).find((id) => id?.startsWith("ses_"))

/** Return whether a request names the announced model: first in its body, or in some protocols in its path. */
function mayBe(entry, url, head) {
  if (!url.startsWith(entry.url)) return false
  const path = `${decodeURIComponent(new URL(url).pathname)}/`
  return entry.words.some((word) => head.includes(`"model":${JSON.stringify(word)}`) || namesIn(path, word))
}

/** Return whether a path has the name as a segment: `/models/NAME:stream`, `/model/us.NAME/converse` (a region). */
function namesIn(path, word) {
  const at = path.indexOf(word)
  return at > 0 && "/.".includes(path[at - 1]) && "/:".includes(path[at + word.length])
}
