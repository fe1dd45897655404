// ocwatchd companion plugin, version 1
// Written by `ocwatch plugin install`, which also replaces it: edits are lost. `ocwatch plugin uninstall` removes it.
//
// Door:       a unix socket per process through which the ocwatchd daemon reaches this OpenCode, TUI included.
// Prevention: a prompt for a model that is cooling, says blacklist.json, goes to the model that stands in for it.
// Pools:      a new session on a pool's first member goes to the member whose turn it is, and stays there.
// Return:     a prompt that names no model goes where its session came from (moved.json), once that is free again.
// Facts:      status and Retry-After of refused model requests, which OpenCode's own log does not tell, and what the
//             provider says is left of its limits.
//
// It decides nothing beyond these files, aborts nothing, and keeps no prompt, answer or key, and of headers only Retry-After
// and what is left of a rate limit.
// Whatever goes wrong in here is noted in plugin-errors.log and changes nothing for OpenCode.

import { appendFileSync, chmodSync, lstatSync, mkdirSync } from "node:fs"
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"

const VERSION = "1" // as in the first line, which `ocwatch plugin status` compares
const FILE_VERSION = 1 // of the daemon's files; of a newer one we may not understand what it means
const FILE_CAP = 8 << 20 // bytes; ours have a few kB
const FACTS_CAP = 1 << 20 // bytes, then the file is set aside once as PID.jsonl.1
const ERRORS_CAP = 64 << 10
const ANNOUNCED = 64 // requests announced by OpenCode; one entry per session, model and agent
const REMEMBERED = 500 // sessions whose prompts were prevented, and those that have their member of a pool
const STEEP = 8 // one session's worth of load against the draw between equals; as in core/pools.py
const GIVEN = 3600e3 // ms for which a session counts as its member's, unless the daemon has measured since
const REOPEN = 3000 // ms after the last project was closed: the process ends within 2 s, or goes on and wants its door
const RIVALS = /fallback|failover|oh-my-open(code|agent)/i
const ALLOWANCE = /^(anthropic|x)-ratelimit-[a-z-]+$/i // numbers and times
const OWN_NAME = "rate-limit-fallback.js"
const SESSION_HEADERS = ["x-session-id", "x-session-affinity", "x-opencode-session"]
const LIMITED_AGENTS = ["plan", "general", "explore"] // OpenCode's own that may do less than others

const base = process.env.XDG_STATE_HOME ?? ""
const state = join(isAbsolute(base) ? base : join(process.env.HOME || homedir(), ".local", "state"), "ocwatchd")
const doors = join(state, "doors")
const facts = join(state, "facts")
const allowances = join(state, "allowances")
const blacklist = join(state, "blacklist.json")
const moved = join(state, "moved.json")

// OpenCode starts a plugin once per project directory, in one process; a second copy of this file may lie elsewhere.
const shared = (globalThis[Symbol.for("ocwatchd.plugin")] ??= {
  about: {}, // what PID.json says
  projects: new Set(), // open project directories
  announced: [], // model requests that OpenCode is about to make
  moved: new Map(), // session -> {from, to, since}
  fresh: new Set(), // sessions that were made in this process and have had no prompt yet
  placed: new Map(), // session -> the model that it has in place of a pool's first member, or that member
  given: [], // [model, time] of sessions that got their member here
  files: new Map(), // what the daemon's files held when they last changed
  subordinate: new Set(LIMITED_AGENTS),
  bound: new Set(), // agents that have a model of their own
  allowed: new Map(), // file of allowances -> when it was written
  told: new Set(),
  noted: new Set(),
})

// The only export: OpenCode calls every exported function as a plugin.
export const RateLimitFallback = async ({ client, directory }) => {
  let rival // the name of another fallback plugin, if there is one: two movers would move twice
  const config = attempt("client", () => client._client.getConfig()) ?? {}
  const ended = () => closeProject(directory, config)

  attempt("start", () => {
    shared.projects.add(directory)
    watchFetch()
    describe({ directory: shared.about.directory ?? directory ?? null })
    openDoor(config)
  })

  return guarded({
    config(settings) {
      rival = rivalIn(settings?.plugin)
      for (const [name, agent] of Object.entries(settings?.agent ?? {})) {
        if (agent?.mode === "subagent") shared.subordinate.add(name)
        if (agent?.model) shared.bound.add(name)
      }
      if (rival) describe({ standing_back: `another fallback plugin is active: ${rival}` })
    },
    "chat.message"(input, output) {
      // Without parts it is the daemon that runs a message again: its choice of model is deliberate.
      if (rival || !output?.parts?.length) return
      giveBack(output.message, input ?? {})
      spread(output.message, input?.sessionID)
      prevent(output.message, input?.sessionID, client)
    },
    "chat.params": announce,
    event({ event }) {
      if (event?.type === "server.instance.disposed") ended() // before 1.14; after it `dispose`
      const { id, version } = event?.properties?.info ?? {}
      if (event?.type === "session.created" && id) shared.fresh.add(id)
      if (!shared.about.opencode && typeof version === "string") describe({ opencode: version })
    },
    dispose: ended,
  })
}

/** The same hooks, whose faults stay in here. */
function guarded(hooks) {
  const safe = ([name, work]) => [name, async (...call) => void attempt(name, () => work(...call))]
  return Object.fromEntries(Object.entries(hooks).map(safe))
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
  const authorization = new Headers(own ?? {}).get("authorization") ?? ownPassword()
  if (authorization) headers.set("authorization", authorization)
  headers.delete("host")
  headers.set("accept-encoding", "identity") // an inner fetch over TCP would unpack the body and keep the header
  const { method, signal } = request
  const body = method === "GET" || method === "HEAD" ? undefined : request.body
  const url = String(baseUrl).replace(/\/+$/, "") + pathname + search
  return inner(new Request(url, { method, headers, body, signal, duplex: "half" }))
}

/** 1.1 guards its server with the password, and does not give it to its own plugins' client. */
function ownPassword() {
  const { OPENCODE_SERVER_PASSWORD: password, OPENCODE_SERVER_USERNAME: user } = process.env
  return password && `Basic ${Buffer.from(`${user || "opencode"}:${password}`).toString("base64")}`
}

// ---- prevention

function prevent(message, session, client) {
  const asked = nameOf(message?.model)
  const entry = asked && cooling(asked)
  const target = entry && standIn(asked, session)
  if (!target) return
  message.model = partsOf(target.model)
  if (target.pool) place(session, target.model)
  const { from, to } = originOf(session)
  remember(session, to === asked ? from : asked, target.model)
  // A subagent, or the planning agent, must not be allowed more than before: only its model is changed.
  if (target.agent && !shared.subordinate.has(message.agent)) message.agent = target.agent
  tell(client, asked, entry, target)
}

/** Without a model OpenCode goes on with the session's last: after a move the target, which nobody chose. */
function giveBack(message, { model, sessionID }) {
  const { from, to } = originOf(sessionID)
  if (!from) return
  if (model && nameOf(model) !== from) return remember(sessionID) // the user's own choice stays
  if (model || nameOf(message?.model) !== to || shared.bound.has(message.agent) || cooling(from)) return
  if (pools().some((pool) => pool.until > Date.now() && isMember(pool, from) && isMember(pool, to))) return
  message.model = partsOf(from)
}

/** Where a session's prompts came from and go to: by the daemon's last move or by prevention, whichever is later. */
function originOf(session) {
  const own = shared.moved.get(session) ?? {}
  const { from, to, since } = read(moved, ({ sessions }) => sessions)?.[session] ?? {}
  if (!isModel(from?.model) || own.since >= Date.parse(since)) return own
  return { from: from.model, to: to?.model }
}

function remember(session, from, to) {
  shared.moved.delete(session)
  shared.moved.set(session, { from, to, since: Date.now() })
  if (shared.moved.size > REMEMBERED) shared.moved.delete(shared.moved.keys().next().value)
}

/** The first free model that stands in for a cooling one; never in a circle. */
function standIn(model, session) {
  const seen = new Set()
  let target
  for (let entry = cooling(model); entry; entry = cooling(target.model)) {
    seen.add(model)
    target = memberFor(entry.target, session)
    model = target?.model
    if (!isModel(model) || seen.has(model)) return
  }
  return target
}

// ---- pools

/** OpenCode knows no pools: the first member speaks for all of them. Only who names that one is spread. */
function spread(message, session) {
  const asked = nameOf(message?.model)
  const fresh = shared.fresh.delete(session)
  const pool = pools().find(({ spread, until, members }) => spread && until > Date.now() && members[0].model === asked)
  if (!pool || !session) return
  if (!keptMember(pool, session) && !fresh) return // its answers so far are in that provider's cache
  const member = memberFor({ model: asked, pool: pool.name }, session)
  place(session, member.model)
  if (member.model === asked || cooling(member.model)) return
  message.model = partsOf(member.model)
  if (member.agent && !shared.subordinate.has(message.agent)) message.agent = member.agent
}

/** This session's own member in place of a target that was taken from a pool; the target itself if none is free. */
function memberFor(target, session) {
  const pool = target?.pool && pools().find(({ name }) => name === target.pool)
  if (!pool) return target
  const kept = keptMember(pool, session)
  const free = pool.members.filter(({ model }) => !cooling(model))
  const [first] = kept && !cooling(kept.model) ? [kept] : pool.spread ? inTurn(pool, free, session) : free
  return first ? { model: first.model, agent: first.agent, pool: pool.name } : target
}

/** The member that this session had last. */
function keptMember({ members }, session) {
  const had = [originOf(session).to, shared.placed.get(session)]
  return had.map((name) => members.find(({ model }) => model === name)).find(Boolean)
}

function place(session, model) {
  if (!session || shared.placed.get(session) === model) return
  shared.placed.delete(session)
  shared.placed.set(session, model)
  if (shared.placed.size > REMEMBERED) shared.placed.delete(shared.placed.keys().next().value)
  shared.given = [...shared.given.filter(([, time]) => time > Date.now() - GIVEN), [model, Date.now()]]
}

/** The least full first, equals as the session's id draws them: the same as the daemon would choose. */
function inTurn({ measured, until }, members, session) {
  const known = until > Date.now()
  const since = known ? Math.max(measured, Date.now() - GIVEN) : Date.now() - GIVEN
  const score = ({ model, weight, load }) => {
    const given = shared.given.filter(([name, time]) => name === model && time > since).length
    return (STEEP * ((known ? load : 0) + given) - Math.log(draw(`${session} ${model}`))) / weight
  }
  const scores = new Map(members.map((member) => [member, score(member)]))
  return members.toSorted((one, other) => scores.get(one) - scores.get(other))
}

/** A number between 0 and 1 that is always the same for one text; as in core/pools.py. */
function draw(text) {
  let value = 0x811c9dc5
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (((value ^ (value >>> 16)) >>> 0) + 0.5) / 2 ** 32
}

const pools = () => read(blacklist, understand)?.pools ?? []
const isMember = ({ members }, name) => members.some(({ model }) => model === name)

const poolsIn = ({ pools }) =>
  Object.entries(pools ?? {})
    .map(([name, pool]) => ({
      name,
      spread: pool?.spread === true,
      measured: Date.parse(pool?.measured) || 0,
      until: ending(pool?.until ?? ""),
      members: Array.isArray(pool?.members) ? pool.members.filter((member) => isModel(member?.model)).map(checked) : [],
    }))
    .filter(({ members }) => members.length)

const checked = ({ model, agent, weight, load }) => ({
  model,
  agent: typeof agent === "string" ? agent : null,
  weight: weight > 0 ? weight : 1,
  load: load > 0 ? load : 0,
})

// ---- the register

/** The entry that blocks this model now; of several the one that ends last. */
function cooling(model) {
  const now = Date.now()
  let found
  for (const entry of read(blacklist, understand)?.entries ?? []) {
    if (entry.until > now && covers(entry, model) && !(found?.until >= entry.until)) found = entry
  }
  return found
}

function covers({ key, scope }, model) {
  const provider = model.slice(0, model.indexOf("/") + 1)
  if (key === model || key === `${provider}*`) return true
  return scope === "free_tier" && key.startsWith(provider) && /[:-]free$/.test(key) && /[:-]free$/.test(model)
}

const understand = (document) => ({ entries: entriesIn(document), pools: attempt("pools", () => poolsIn(document)) })
const entriesIn = ({ models }) =>
  Object.entries(models ?? {}).map(([key, entry]) => ({ ...entry, key, until: ending(entry?.until) }))

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
const isModel = (name) => typeof name === "string" && /^[^/]+\/./.test(name)
const partsOf = (name) => ({ providerID: name.slice(0, name.indexOf("/")), modelID: name.slice(name.indexOf("/") + 1) })

/** The first plugin, by package or file, that moves prompts as well. A plugin may be given as [name, options]. */
function rivalIn(plugins) {
  const names = (plugins ?? []).map((plugin) => String(Array.isArray(plugin) ? plugin[0] : plugin))
  return names.map(bareName).find((name) => RIVALS.test(name) && name !== OWN_NAME)
}

/** "@scope/name@1.2" -> "@scope/name", "file:///…/node_modules/name/x.js" -> "name", "file:///…/x.js" -> "x.js" */
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
  shared.announced = [...shared.announced.filter((old) => !same(old)), entry].slice(-ANNOUNCED)
}

/** See the answers of model requests, whoever makes them. OpenCode looks `fetch` up at every request. */
function watchFetch() {
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
  const agreed = ["session", "provider", "model", "agent", "small"].filter((key) => first && allEqual(key, first, rest))
  return { session, url, ...Object.fromEntries(agreed.map((key) => [key, first[key]])) }
}

const allEqual = (key, first, rest) => rest.every((other) => other[key] === first[key])
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

// ---- files

/** What `digest` makes of one of the daemon's files; read again only after a change. Anything wrong: undefined. */
function read(path, digest) {
  const info = lstatSync(path, { throwIfNoEntry: false })
  const mark = info && `${info.ino} ${info.mtimeMs} ${info.size}`
  const known = shared.files.get(path)
  if (known && known.mark === mark) return known.value
  const plain = info?.isFile() && info.size <= FILE_CAP
  const value = plain ? attempt(path, () => understood(JSON.parse(readFileSync(path, "utf8")), digest)) : undefined
  shared.files.set(path, { mark, value })
  return value
}

const understood = (document, digest) =>
  (document?.version ?? FILE_VERSION) <= FILE_VERSION ? digest(document) : undefined

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
