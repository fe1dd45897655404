// ocwatchd companion plugin, version 1
// Written by `ocwatch plugin install`, which also replaces it: edits are lost. `ocwatch plugin uninstall` removes it.
//
// Door:       a unix socket per process through which the ocwatchd daemon reaches this OpenCode, TUI included.
// Prevention: a prompt for a model that is cooling, says blacklist.json, goes to the model that stands in for it.
// Facts:      status and Retry-After of refused model requests, which OpenCode's own log does not tell.
//
// It decides nothing beyond that file, aborts nothing, and keeps no prompt, answer, key or header but Retry-After.
// Whatever goes wrong in here is noted in plugin-errors.log and changes nothing for OpenCode.

import { appendFileSync, chmodSync, lstatSync, mkdirSync } from "node:fs"
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"

const VERSION = "1" // as in the first line, which `ocwatch plugin status` compares
const BLACKLIST_VERSION = 1 // of a newer one we may not understand what it means
const BLACKLIST_CAP = 8 << 20 // bytes; ours have a few kB
const FACTS_CAP = 1 << 20 // bytes, then the file is set aside once as PID.jsonl.1
const ERRORS_CAP = 64 << 10
const REMEMBERED = 64 // requests announced by OpenCode; one entry per session, model and agent
const REOPEN = 3000 // ms after the last project was closed: the process ends within 2 s, or goes on and wants its door
const RIVALS = /fallback|failover|oh-my-open(code|agent)/i
const OWN_NAME = "rate-limit-fallback.js"
const SESSION_HEADERS = ["x-session-id", "x-session-affinity", "x-opencode-session"]
const LIMITED_AGENTS = ["plan", "general", "explore"] // OpenCode's own that may do less than others

const base = process.env.XDG_STATE_HOME ?? ""
const state = join(isAbsolute(base) ? base : join(process.env.HOME || homedir(), ".local", "state"), "ocwatchd")
const doors = join(state, "doors")
const facts = join(state, "facts")
const blacklist = join(state, "blacklist.json")

// OpenCode starts a plugin once per project directory, in one process; a second copy of this file may lie elsewhere.
const shared = (globalThis[Symbol.for("ocwatchd.plugin")] ??= {
  about: {}, // what PID.json says
  projects: new Set(), // open project directories
  announced: [], // model requests that OpenCode is about to make
  subordinate: new Set(LIMITED_AGENTS),
  told: new Set(),
  noted: new Set(),
})

// The only export: OpenCode calls every exported function as a plugin.
export const RateLimitFallback = async ({ client, directory }) => {
  let rival // the name of another fallback plugin: two movers would move twice
  const config = attempt("client", () => client._client.getConfig()) ?? {}
  const ended = () => attempt("end", () => closeProject(directory, config))

  attempt("start", () => {
    shared.projects.add(directory)
    watchFetch()
    describe({ directory: shared.about.directory ?? directory ?? null })
    openDoor(config)
  })

  return {
    config: (settings) =>
      attempt("config", () => {
        rival = rivalIn(settings?.plugin)
        subordinatesIn(settings?.agent).forEach((agent) => shared.subordinate.add(agent))
        if (rival) describe({ standing_back: `another fallback plugin is active: ${rival}` })
      }),
    dispose: ended, // since 1.14
    event: ({ event }) => {
      if (event?.type === "server.instance.disposed") ended() // before
      const version = shared.about.opencode ? undefined : event?.properties?.info?.version
      if (typeof version === "string") attempt("event", () => describe({ opencode: version }))
    },
    "chat.message": (input, output) => {
      // Without parts it is the daemon that runs a message again: its choice of model is deliberate.
      if (!rival && output?.parts?.length) attempt("chat.message", () => prevent(output.message, client))
    },
    "chat.params": (input) => attempt("chat.params", () => announce(input)),
  }
}

// ---- door

function openDoor({ fetch: inner, baseUrl, headers }) {
  if (shared.door || shared.about.door === false) return
  if (typeof inner !== "function" || !baseUrl || typeof Bun === "undefined") {
    describe({ door: false })
    return note("door", "this OpenCode's plugin client has no fetch")
  }
  privateDirectory(doors)
  rmSync(ownFile("sock"), { force: true }) // left behind by a dead process of the same pid
  shared.door = Bun.serve({
    unix: ownFile("sock"),
    idleTimeout: 0, // event streams may be silent for longer than the usual 10 s
    fetch: (request) => pass(request, inner, baseUrl, headers),
    error: () => new Response("the door failed", { status: 502 }),
  })
  chmodSync(ownFile("sock"), 0o600)
  describe({ door: true })
  if (!shared.tidy) process.on("exit", (shared.tidy = () => attempt("exit", removeFiles)))
}

/** The last project is closed when OpenCode ends (where no exit event reaches us), but also when it loads anew. */
function closeProject(directory, config) {
  shared.projects.delete(directory)
  if (shared.projects.size || !shared.door) return
  removeFiles()
  shared.door.stop()
  shared.door = undefined
  setTimeout(() => attempt("reopen", () => openDoor(config)), REOPEN).unref?.()
}

function removeFiles() {
  for (const kind of ["sock", "json"]) rmSync(ownFile(kind), { force: true })
}

/** Hand a request to OpenCode as if it had come over TCP, with the password if there is one. */
function pass(request, inner, baseUrl, own) {
  const { pathname, search } = new URL(request.url)
  const headers = new Headers(request.headers)
  const authorization = new Headers(own ?? {}).get("authorization")
  if (authorization) headers.set("authorization", authorization)
  headers.delete("host")
  headers.set("accept-encoding", "identity") // an inner fetch over TCP would unpack the body and keep the header
  const { method, signal } = request
  const body = method === "GET" || method === "HEAD" ? undefined : request.body
  const url = String(baseUrl).replace(/\/+$/, "") + pathname + search
  return inner(new Request(url, { method, headers, body, signal, duplex: "half" }))
}

// ---- prevention

function prevent(message, client) {
  const asked = nameOf(message?.model)
  const entry = asked && cooling(asked)
  const target = entry && standIn(asked)
  if (!target) return
  const at = target.model.indexOf("/")
  message.model = { providerID: target.model.slice(0, at), modelID: target.model.slice(at + 1) }
  // A subagent, or the planning agent, must not be allowed more than before: only its model is changed.
  if (target.agent && !shared.subordinate.has(message.agent)) message.agent = target.agent
  tell(client, asked, entry, target)
}

/** The first free model that stands in for a cooling one; never in a circle. */
function standIn(model) {
  const seen = new Set()
  let target
  for (let entry = cooling(model); entry; entry = cooling(target.model)) {
    seen.add(model)
    target = entry.target
    model = target?.model
    if (typeof model !== "string" || !/^[^/]+\/./.test(model) || seen.has(model)) return
  }
  return target
}

/** The entry that blocks this model now; of several the one that ends last. */
function cooling(model) {
  const now = Date.now()
  let found
  for (const entry of entries()) {
    if (entry.until > now && covers(entry, model) && !(found?.until >= entry.until)) found = entry
  }
  return found
}

function covers({ key, scope }, model) {
  const provider = model.slice(0, model.indexOf("/") + 1)
  if (key === model || key === `${provider}*`) return true
  return scope === "free_tier" && key.startsWith(provider) && /[:-]free$/.test(key) && /[:-]free$/.test(model)
}

/** What blacklist.json holds; parsed again only after a change. Anything wrong with it counts as empty. */
function entries() {
  const info = lstatSync(blacklist, { throwIfNoEntry: false })
  const mark = info && `${info.ino} ${info.mtimeMs} ${info.size}`
  if (mark !== shared.mark) {
    shared.entries = []
    shared.mark = mark
    const plain = info?.isFile() && info.size <= BLACKLIST_CAP
    if (plain) attempt("blacklist", () => (shared.entries = parsed(readFileSync(blacklist, "utf8"))))
  }
  return shared.entries ?? []
}

function parsed(text) {
  const { version = BLACKLIST_VERSION, models } = JSON.parse(text) ?? {}
  if (!(version <= BLACKLIST_VERSION)) return []
  return Object.entries(models ?? {}).map(([key, entry]) => ({ ...entry, key, until: ending(entry?.until) }))
}

/** Epoch milliseconds; null is "until a person clears it"; what is no time is over. */
function ending(until) {
  if (until === null) return Infinity
  if (typeof until !== "string") return 0
  return Date.parse(/(Z|[+-]\d\d:?\d\d)$/i.test(until) ? until : `${until}Z`) || 0
}

/** The TUI goes on naming the model that was chosen in it: say what runs instead, once per cooldown. */
function tell(client, asked, entry, target) {
  const matter = [asked, entry.since, target.model].join(" ")
  if (shared.told.has(matter)) return
  shared.told.add(matter)
  const until = entry.until === Infinity ? "until it is cleared" : `until ${new Date(entry.until).toLocaleTimeString()}`
  const message = `Prompts go to ${target.model} ${until}.`
  const body = { title: `${asked} is limited`, message, variant: "warning", duration: 8000 }
  Promise.resolve(client?.tui?.showToast?.({ body })).catch((fault) => note("toast", fault))
}

const nameOf = (model) => (model?.providerID && model?.modelID ? `${model.providerID}/${model.modelID}` : undefined)
const subordinatesIn = (agents) => Object.keys(agents ?? {}).filter((name) => agents[name]?.mode === "subagent")

/** The first plugin, by package or file, that moves prompts as well. A plugin may be given as [name, options]. */
function rivalIn(plugins) {
  const names = (plugins ?? []).map((plugin) => String(Array.isArray(plugin) ? plugin[0] : plugin))
  return names.map(bareName).find((name) => RIVALS.test(name) && name !== OWN_NAME)
}

/** "@scope/name@1.2" -> "@scope/name", "file:///…/node_modules/name/index.js" -> "name", "file:///…/x.js" -> "x.js" */
function bareName(plugin) {
  if (!/^(file:|[./~])/.test(plugin)) return plugin.replace(/(.)@.*$/, "$1")
  return /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(plugin)?.[1] ?? plugin.slice(plugin.lastIndexOf("/") + 1)
}

// ---- facts

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
  shared.announced = [...shared.announced.filter((old) => !same(old)), entry].slice(-REMEMBERED)
}

/** See the answers of model requests, whoever makes them. OpenCode looks `fetch` up at every request. */
function watchFetch() {
  if (shared.fetch) return
  const inner = (shared.fetch = globalThis.fetch)
  const watched = async function (...call) {
    const about = attempt("fetch", () => requestOf(...call))
    const response = await inner.apply(this, call)
    if (about && response?.status >= 400) attempt("facts", () => record(about, response))
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
  const agreed = ["session", "provider", "model", "agent", "small"].filter((key) => first && allEqual(key, first, rest))
  return { session, url, ...Object.fromEntries(agreed.map((key) => [key, first[key]])) }
}

const allEqual = (key, first, rest) => rest.every((other) => other[key] === first[key])
const sessionIn = (headers) => SESSION_HEADERS.map((name) => headers.get(name)).find((id) => id?.startsWith("ses_"))

/** By the name in the request, which most protocols put first in the body and the others in the path. */
function mayBe(entry, url, head) {
  if (!url.startsWith(entry.url)) return false
  const path = decodeURIComponent(new URL(url).pathname)
  return entry.words.some((word) => head.includes(`"model":${JSON.stringify(word)}`) || path.includes(`/${word}`))
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

// ---- our files

/** Tell `ocwatch doctor` about this process. */
function describe(change) {
  Object.assign(shared.about, change)
  const unknown = { opencode: null, directory: null, door: null, standing_back: null }
  const about = { version: 1, pid: process.pid, plugin: VERSION, ...unknown, ...shared.about }
  privateDirectory(doors)
  writeFileSync(ownFile("tmp"), JSON.stringify(about) + "\n", { mode: 0o600 })
  renameSync(ownFile("tmp"), ownFile("json"))
}

const ownFile = (kind) => join(doors, `${process.pid}.${kind}`)

/** Make a directory for this user alone. Throws if it is somebody else's, or a link. */
function privateDirectory(path) {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  const info = lstatSync(path)
  if (!info.isDirectory() || info.uid !== process.getuid()) throw new Error(`${path} is not a directory of ours`)
  if (info.mode & 0o077) chmodSync(path, 0o700)
}

function append(path, line, cap) {
  if ((lstatSync(path, { throwIfNoEntry: false })?.size ?? 0) > cap) renameSync(path, `${path}.1`)
  appendFileSync(path, line + "\n", { mode: 0o600 })
}

/** Run `work`; a fault is noted once and goes no further. */
function attempt(where, work) {
  try {
    return work()
  } catch (fault) {
    note(where, fault)
  }
}

function note(where, fault) {
  try {
    const text = `${where}: ${String(fault?.message ?? fault).slice(0, 300)}`
    if (shared.noted.has(text) || shared.noted.size > 100) return
    shared.noted.add(text)
    append(join(state, "plugin-errors.log"), `${new Date().toISOString()} ${process.pid} ${text}`, ERRORS_CAP)
  } catch {
    // not even that can be written
  }
}
