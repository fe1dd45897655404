// ocwatchd companion plugin, version 1
// Written by `ocwatch plugin install`, which also replaces it: edits are lost. `ocwatch plugin uninstall` removes it.
//
// Prevention: a prompt for a model that is cooling, says blacklist.json, goes to the model that stands in for it.
// Return:     a prompt whose model nobody chose goes where its session came from, once that is free again (origin.js).
//
// What else it does stands in rate-limit-fallback/ beside it, where OpenCode looks for no plugins (1.0 - 1.18); without
// one of these parts the rest goes on:
//
// door.js:    a unix socket per process through which the ocwatchd daemon reaches this OpenCode, TUI included.
// origin.js:  where a session's prompts came from, and whether they go back there.
// floor.js:   a stand-in that could not take the session is passed over.
// pools.js:   a new session on a pool's first member goes to the member whose turn it is, and stays there.
// answers.js: status and Retry-After of refused model requests, and what the provider says is left of its limits.
//
// It decides nothing beyond the daemon's files, aborts nothing, and keeps no prompt, answer or key. Whatever goes wrong
// in here is noted in plugin-errors.log and changes nothing for OpenCode.

import { appendFileSync, chmodSync, lstatSync, mkdirSync } from "node:fs"
import { readFileSync, renameSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"

const VERSION = "1" // as in the first line, which `ocwatch plugin status` compares
const FILE_VERSION = 1 // of the daemon's files; of a newer one we may not understand what it means
const FILE_CAP = 8 << 20 // bytes; ours have a few kB
const ERRORS_CAP = 64 << 10
const RIVALS = /fallback|failover|oh-my-open(code|agent)/i
const OWN_NAME = "rate-limit-fallback.js"
const FORESEEN = "forecast" // an entry's told_by: nobody was refused yet
const LIMITED_AGENTS = ["plan", "general", "explore"] // OpenCode's own that may do less than others

const base = process.env.XDG_STATE_HOME ?? ""
const state = join(isAbsolute(base) ? base : join(process.env.HOME || homedir(), ".local", "state"), "ocwatchd")
const doors = join(state, "doors")
const blacklist = join(state, "blacklist.json")
const budget = join(state, "budget.json")

// OpenCode starts a plugin once per project directory, in one process; a second copy of this file may lie elsewhere.
const shared = (globalThis[Symbol.for("ocwatchd.plugin")] ??= {
  about: {}, // what PID.json says
  projects: new Set(), // open project directories
  files: new Map(), // what the daemon's files held when they last changed
  subordinate: new Set(LIMITED_AGENTS),
  bound: new Map(), // agent -> the model of its own
  told: new Set(),
  noted: new Set(),
})

// What each part does until it is loaded, and where it cannot be.
const parts = {
  door: { elsewhere: () => false, open: () => describe({ door: false }), close() {} },
  pools: { understand: () => [], created() {}, spread() {}, place() {}, memberFor: (it) => it, share: () => false },
  origin: { originOf: () => ({}), remember() {}, giveBack() {} },
  floor: { choose: (asked, entry, first) => first },
  answers: { announce() {}, watch() {} },
}

// The only export: OpenCode calls every exported function as a plugin.
export const RateLimitFallback = async ({ client, directory }) => {
  let rival // the name of another fallback plugin, if there is one: two movers would move twice
  const config = attempt("client", () => client._client.getConfig()) ?? {}
  const ended = () => closeProject(directory, config)

  await Promise.all(Object.keys(parts).map(load))
  if (attempt("threads", () => parts.door.elsewhere())) return {}
  attempt("start", () => {
    shared.projects.add(directory)
    parts.answers.watch()
    describe({ directory: shared.about.directory ?? directory ?? null })
    parts.door.open(config)
  })

  return guarded({
    config(settings) {
      rival = rivalIn(settings?.plugin)
      for (const [name, agent] of Object.entries(settings?.agent ?? {})) {
        if (agent?.mode === "subagent") shared.subordinate.add(name)
        if (agent?.model) shared.bound.set(name, agent.model)
      }
      if (rival) describe({ standing_back: `another fallback plugin is active: ${rival}` })
    },
    "chat.message"(input, output) {
      // Without parts it is the daemon that runs a message again: its choice of model is deliberate.
      if (!output?.parts?.length) return keepTime(output?.message, client)
      if (rival) return
      if (parts.origin.giveBack(output.message, input ?? {})) tellFree(client, nameOf(output.message.model), input.sessionID)
      parts.pools.spread(output.message, input?.sessionID)
      return prevent(output, input?.sessionID, client)
    },
    "chat.params": (input) => parts.answers.announce(input),
    event({ event }) {
      if (event?.type === "server.instance.disposed") ended() // before 1.14; after it `dispose`
      const { id, version } = event?.properties?.info ?? {}
      if (event?.type === "session.created" && id) parts.pools.created(id)
      if (!shared.about.opencode && typeof version === "string") describe({ opencode: version })
    },
    dispose: ended,
  })
}

/** A part gets by name what it needs of this file. */
async function load(name) {
  try {
    parts[name] = (await import(`./rate-limit-fallback/${name}.js`)).part(tools)
  } catch (fault) {
    note(`${name}.js`, fault)
  }
}

/** The last project is closed when OpenCode ends (where no exit event reaches us), but also when it loads anew. */
function closeProject(directory, config) {
  shared.projects.delete(directory)
  if (!shared.projects.size) parts.door.close(config)
}

/** The same hooks, whose faults stay in here. */
function guarded(hooks) {
  const failed = (name) => (fault) => note(name, fault)
  const safe = ([name, work]) => [name, async (...call) => void (await (async () => work(...call))().catch(failed(name)))]
  return Object.fromEntries(Object.entries(hooks).map(safe))
}

/** 1.18's TUI knows a message by time and id together: under a new time the prompt would be shown a second time. */
async function keepTime(message, client) {
  const known = await client.session.message({ path: { id: message.sessionID, messageID: message.id } })
  message.time.created = known?.data?.info?.time?.created ?? message.time.created
}

// ---- prevention

async function prevent({ message, parts: prompt }, session, client) {
  const asked = nameOf(message?.model)
  const entry = asked && cooling(asked)
  const first = entry && standIn(asked, session)
  const target = first && (await parts.floor.choose(asked, entry, first, session, prompt, client))
  if (!target) return
  const { from, to } = parts.origin.originOf(session)
  const before = to?.model === asked ? from : { model: asked, agent: message.agent }
  message.model = partsOf(target.model)
  if (target.pool) parts.pools.place(session, target.model)
  // A subagent, or the planning agent, must not be allowed more than before: only its model is changed.
  if (target.agent && !shared.subordinate.has(message.agent)) message.agent = target.agent
  parts.origin.remember(session, before, { model: target.model, agent: message.agent })
  tell(client, asked, entry, target)
}

/** The first free model that stands in for a cooling one, else one whose limit is only foreseen; never in a circle. */
function standIn(model, session) {
  const seen = new Set()
  let target, foreseen
  for (let entry = cooling(model); entry; entry = cooling(target.model)) {
    if (seen.size && entry.told_by === FORESEEN) foreseen ??= target
    seen.add(model)
    target = parts.pools.memberFor(entry.target, session)
    model = target?.model
    if (!isModel(model) || seen.has(model) || dear(model)) return foreseen
  }
  return target
}

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

/** Whether it has a price, and the day's budget is spent: then it stands in for no other. */
function dear(model) {
  const left = read(budget, ({ dear, until }) => ({ models: new Set(dear), until: ending(until ?? "") }))
  return left?.until > Date.now() && left.models.has(model)
}

function covers({ key, scope }, model) {
  const provider = model.slice(0, model.indexOf("/") + 1)
  if (key === model || key === `${provider}*`) return true
  return scope === "free_tier" && key.startsWith(provider) && /[:-]free$/.test(key) && /[:-]free$/.test(model)
}

const understand = (document) => ({
  entries: entriesIn(document),
  pools: attempt("pools", () => parts.pools.understand(document.pools)),
  standIns: document.stand_ins,
  takes: document.takes,
})
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
  const until = entry.until === Infinity ? "until it is cleared" : `until ${new Date(entry.until).toLocaleTimeString()}`
  const title = `${asked} is ${entry.told_by === FORESEEN ? "about to be " : ""}limited`
  toast(client, [asked, entry.since, target.model].join(" "), title, `Prompts go to ${target.model} ${until}.`)
}

/** Here the TUI names the stand-in, whose prompts it has seen: say that they go back, once per session. */
function tellFree(client, model, session) {
  toast(client, [model, session].join(" "), `${model} is free again`, `Prompts go to it, until you choose another.`)
}

/** Show something once. */
function toast(client, matter, title, message) {
  if (shared.told.has(matter)) return
  shared.told.add(matter)
  const body = { title, message, variant: "warning", duration: 8000 }
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

const tools = {
  ...{ shared, state, doors, ownFile, describe, privateDirectory, append, attempt, note },
  ...{ cooling, dear, ending, nameOf, isModel, partsOf, read, listed: () => read(blacklist, understand) },
  originOf: (session) => parts.origin.originOf(session),
  share: (one, other) => parts.pools.share(one, other),
  pools: () => read(blacklist, understand)?.pools ?? [],
}
