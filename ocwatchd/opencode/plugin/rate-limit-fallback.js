// ocwatchd companion plugin, version 1
// Written by `ocwatch plugin install`, which also replaces it: edits are lost. `ocwatch plugin uninstall` removes it.
//
// Prevention: sends a prompt to the fallback if its model is cooling down according to blacklist.json.
// Return:     sends a prompt back to the session's primary as soon as the primary is available, unless the user chose
//             another model (origin.js).
//
// The file is long because it must work even if all of the parts are missing.
//
// The other parts are in the directory rate-limit-fallback/ beside this file. OpenCode does not load plugins from there
// (1.0 - 1.18; 2 skips a directory without `server`, `index`, `tui` or `rpc`). Each part works without the others:
//
// door.js:    opens a unix socket per process, through which the ocwatchd daemon reaches this OpenCode, TUI included.
// origin.js:  records from which model a session's prompts were moved, and decides whether they return to it.
// selection.js: chooses the fallback. Without this part, the target in the blacklist entry is used.
// floor.js:   skips fallbacks that cannot continue the session.
// pools.js:   assigns a new session that names a pool's first member to the member whose turn it is.
// answers.js: records status and Retry-After of refused model requests, and the providers' rate-limit headers.
//
// opencode2.js:  the hooks of OpenCode 2: prevention, and the reaction to a refused attempt.
// decisions.js:  asks the daemon about a refused attempt over a unix socket (OpenCode 2).
//
// The plugin only follows the daemon's files and answers. It aborts nothing and stores no prompt, answer or key. A
// fault in the plugin is logged in plugin-errors.log and does not affect OpenCode.
//
// One file serves both generations: OpenCode 1 needs a function (1.0.185 and 1.1.65 answer 500 on every route if the
// export is an object); OpenCode 2 needs an object with `id` and `setup`, and reports a function as a plugin that
// failed to load.

import { closeSync, constants, fchmodSync, fchownSync, fstatSync, lstatSync, mkdirSync } from "node:fs"
import { openSync, readFileSync, renameSync, rmSync, statSync, writeSync } from "node:fs"
import { dirname, isAbsolute, join } from "node:path"

const VERSION = "1" // the same as in the first line, which `ocwatch plugin status` compares
const FILE_VERSION = 1 // newest version of the daemon's files that is understood; newer files are ignored
const FILE_CAP = 8 << 20 // bytes; the daemon's files have a few kB
const ERRORS_CAP = 64 << 10
const RIVALS = /fallback|failover|oh-my-open(code|agent)/i
const OWN_NAME = "rate-limit-fallback.js"
const FAR_AHEAD = 2 * 86400e3 // ms; an entry that begins later was made with a wrong clock
const NAME_CAP = 300 // characters of a model's name, as in core/domain/names.py
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u
const CREATED_CAP = 256 // prompts whose creation time is kept
const FREE = /[:-]free$/
const FORESEEN = "forecast" // reset_source of an entry whose limit is only expected
const LIMITED_AGENTS = ["plan", "general", "explore"] // OpenCode's own agents with restricted permissions

const { O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
const me = process.getuid()

const home = process.env.HOME ?? ""
const base = process.env.XDG_STATE_HOME ?? ""
// Without HOME no file is read or written: the home in the password database may not be the one that OpenCode uses.
const state = join(isAbsolute(base) ? base : join(isAbsolute(home) ? home : "/nowhere", ".local", "state"), "ocwatchd")
const endpoints = join(state, "doors")
const blacklist = join(state, "blacklist.json")
const budget = join(state, "budget.json")

// State shared by all instances: OpenCode starts a plugin once per project directory in the same process, and may load
// a second copy of this file.
const shared = (globalThis[Symbol.for("ocwatchd.plugin")] ??= {
  about: {}, // the content of PID.json
  projects: new Set(), // open project directories
  files: new Map(), // path of a daemon's file -> {mark, value}: its parsed content since its last change
  subordinate: new Set(LIMITED_AGENTS),
  bound: new Map(), // agent -> its own model
  created: new Map(), // id of a prompt's message -> when it was created
  told: new Set(), // toasts that were shown
  noted: new Set(), // faults that were logged
})

// The parts. These defaults apply until a part is loaded, and remain if a part cannot be loaded.
const parts = {
  door: { inMainThread: () => false, open: () => describe({ door: false }), close() {} },
  pools: { understand: () => [], created() {}, spread() {}, place() {}, membersFor: () => [], share: () => false },
  origin: { originOf: () => ({}), remember() {}, returnToPrimary() {} },
  selection: { select: (asked) => ({ target: blocking(asked)[0]?.target }) },
  floor: { choose: (asked, session, prompt, client, select) => select().target },
  answers: { announce() {}, watch() {}, waitForCooldown: async () => {} },
  decisions: { ask: async () => undefined },
  opencode2: { start: async () => undefined },
}
const PARTS_OF_1 = ["door", "pools", "origin", "selection", "floor", "answers"]
const PARTS_OF_2 = ["pools", "origin", "selection", "floor", "decisions", "opencode2"]

/**
 * Return whether OpenCode 2 loads this file. OpenCode 2 appends the file's time to the URL (0.0.0-next-16350); OpenCode
 * 1.0 - 1.18 do not. Without a query in the URL, the path of the program's entry point decides, unless the environment
 * variable of OpenCode 1 is set.
 */
const loadedBy2 = () =>
  /[?&]\w+=/.test(import.meta.url) || (globalThis.Bun?.main === "/$bunfs/root/index.js" && !process.env.OPENCODE)

const RateLimitFallback = async ({ client, directory }) => {
  let rival // name of another active fallback plugin: both together would move a session twice
  const config = attempt("client", () => client._client.getConfig()) ?? {}
  const ended = () => closeProject(directory, config)

  const trouble = untrusted()
  if (trouble) return inactive(trouble, client)
  const gone = uninstalled()
  if (gone) return firstTime() ? inactive(gone, client) : {}
  shared.generation = 1
  await Promise.all(PARTS_OF_1.map(load))
  if (attempt("threads", () => parts.door.inMainThread())) return {}
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
      // A message without parts is a re-run by the daemon, which has chosen the model deliberately.
      if (!output?.parts?.length) return keepCreationTime(output?.message, client)
      noteCreationTime(output.message)
      if (rival) return
      return redirect(output, input ?? {}, client)
    },
    "chat.params": (input) => parts.answers.announce(input),
    event({ event }) {
      if (event?.type === "server.instance.disposed") ended() // before 1.14; later versions call `dispose`
      const { id, version } = event?.properties?.info ?? {}
      if (event?.type === "session.created" && id) parts.pools.created(id)
      if (!shared.about.opencode && typeof version === "string") describe({ opencode: version })
    },
    dispose: ended,
  })
}

/** OpenCode 2's entry point, called once per project. The returned function is called when the plugin is unloaded. */
async function setup(context) {
  try {
    if (shared.generation === 1 || untrusted() || uninstalled()) return // 1.18 contains an OpenCode 2 without sessions
    shared.generation = 2
    await Promise.all(PARTS_OF_2.map(load))
    return await parts.opencode2.start(context)
  } catch (fault) {
    note("setup", fault)
  }
}

// The only export: OpenCode 1.0 calls every exported function as a plugin.
export default loadedBy2() ? { id: "ocwatchd.rate-limit-fallback", setup } : RateLimitFallback

/** Return hooks that only show why the plugin is inactive. No file is read or written. */
function inactive(trouble, client) {
  const message = `ocwatchd's plugin is inactive: ${trouble}`
  const body = { service: "ocwatchd", level: "warn", message }
  Promise.resolve(client?.app?.log?.({ body })).catch(() => {})
  return guarded({ "chat.message": () => toast(client, "aside", "ocwatchd is inactive", trouble) })
}

/** Load one part and pass `tools` to it. */
async function load(name) {
  try {
    const { search } = new URL(import.meta.url) // OpenCode 2 reloads a changed file with a new query
    parts[name] = (await import(`./rate-limit-fallback/${name}.js${search}`)).part(tools)
  } catch (fault) {
    note(`${name}.js`, fault)
  }
}

/**
 * Close the endpoint with the last project. OpenCode may be exiting without an exit event, or it may only be reloading.
 */
function closeProject(directory, config) {
  shared.projects.delete(directory)
  if (!shared.projects.size) parts.door.close(config)
}

/** Wrap the hooks so that their faults are logged instead of thrown. */
function guarded(hooks) {
  const failed = (name) => (fault) => note(name, fault)
  const safe = ([name, work]) => [name, async (...call) => void (await (async () => work(...call))().catch(failed(name)))]
  return Object.fromEntries(Object.entries(hooks).map(safe))
}

/** Restore the creation time of a re-run message: with a new time, 1.18's TUI would show the prompt twice. */
async function keepCreationTime(message, client) {
  const noted = shared.created.get(message.id)
  const path = { id: message.sessionID, messageID: message.id }
  const created = noted ?? (await client.session.message({ path }))?.data?.info?.time?.created
  message.time.created = created ?? message.time.created
}

/** Note when a prompt was created. During a move, requesting this time from OpenCode would delay the new run. */
function noteCreationTime(message) {
  if (typeof message?.time?.created === "number") shared.created.set(message.id, message.time.created)
  if (shared.created.size > CREATED_CAP) shared.created.delete(shared.created.keys().next().value)
}

// ---- prevention

/** Change the model of a prompt's message to the session's primary, to a member of a pool, or to a fallback. */
function redirect(output, input, client) {
  const returned = parts.origin.returnToPrimary(output.message, input)
  if (returned) showReturn(client, nameOf(output.message.model), input.sessionID)
  parts.pools.spread(output.message, input.sessionID)
  return prevent(output, input.sessionID, client)
}

/** Send the prompt to a fallback if its model is cooling down. */
async function prevent({ message, parts: prompt }, session, client) {
  const asked = nameOf(message?.model)
  if (asked) await parts.answers.waitForCooldown(asked, () => cooling(asked))
  const entry = asked && cooling(asked)
  const { from, to } = parts.origin.originOf(session)
  const by = to?.agent === message.agent ? (from?.agent ?? message.agent) : message.agent // the agent that the user chose
  const select = (unfit) => parts.selection.select(asked, session, unfit, by)
  const target = entry && (await parts.floor.choose(asked, session, prompt, client, select))
  if (!isModel(target?.model)) return
  const before = to?.model === asked ? from : { model: asked, agent: message.agent }
  message.model = partsOf(target.model)
  if (target.pool) parts.pools.place(session, target.model)
  // Only the model of a subagent or of the planning agent is changed: another agent may have more permissions.
  if (target.agent && !shared.subordinate.has(message.agent)) message.agent = target.agent
  parts.origin.remember(session, before, { model: target.model, agent: message.agent })
  showFallback(client, asked, entry, target)
}

// ---- the blacklist

/** Return the blacklist entries that cover this model now, sorted by end time, the latest first. */
function blocking(model) {
  const now = Date.now()
  const { entries, tiers } = read(blacklist, understand) ?? { entries: new Map(), tiers: [] }
  const provider = model.slice(0, model.indexOf("/") + 1)
  const wider = FREE.test(model) ? tiers.filter(({ key }) => key.startsWith(provider) && key !== model) : []
  return [entries.get(model), entries.get(`${provider}*`), ...wider]
    .filter((entry) => entry?.until > now && !aheadOfTime(entry, now))
    .sort((one, other) => other.until - one.until || 0)
}

const cooling = (model) => blocking(model)[0]

/** Return whether the model is limited now; a forecast alone does not count. */
const limited = (model) => blocking(model).some(({ reset_source }) => reset_source !== FORESEEN)

/** Return whether the model is over budget: it has a price, and the day's budget is spent. */
function overBudget(model) {
  const left = read(budget, ({ over_budget, until }) => ({ models: new Set(over_budget), until: ending(until ?? "") }))
  return left?.until > Date.now() && left.models.has(model)
}

const understand = (document) => ({
  ...entriesIn(document),
  pools: attempt("pools", () => parts.pools.understand(document.pools)),
  fallbacks: document.fallbacks,
  agent_chains: document.agent_chains,
  capabilities: document.capabilities,
})

function entriesIn({ models }) {
  const entries = new Map()
  for (const [key, entry] of Object.entries(models ?? {})) {
    const times = { begins: ending(entry?.since ?? ""), until: ending(entry?.until) }
    if (isListable(key, entry, times)) entries.set(key, { ...entry, key, ...times })
  }
  const tiers = [...entries.values()].filter(({ key, scope }) => scope === "free_tier" && FREE.test(key))
  return { entries, tiers }
}

/** Return whether an entry is valid, by the same rules as state/blacklist/format.py, so that all readers agree. */
function isListable(key, entry, { begins, until }) {
  if (!isName(key) || typeof entry !== "object" || entry === null || Array.isArray(entry)) return false
  const may = (fields, test) => fields.every((name) => entry[name] === undefined || test(entry[name]))
  const { target, since } = entry
  const agents = ["string", "object", "undefined"]
  const named = isModel(target?.model) && !target.model.endsWith("/*") && agents.includes(typeof target.agent)
  return (
    until > 0 &&
    ((since ?? null) === null || begins > 0) &&
    may(["kind", "scope", "reset_source"], (word) => typeof word === "string" && word && word.length <= 40) &&
    may(["rule", "reason", "session"], (text) => text === null || typeof text === "string") &&
    may(["strikes", "doublings"], (count) => Number.isInteger(count) && count >= 0 && count <= 1e9) &&
    ((target ?? null) === null || named)
  )
}

/**
 * Return whether an entry was made while the clock was far ahead, so that it is ignored (as in
 * state/blacklist/format.py).
 */
const aheadOfTime = ({ begins, until }, now) => now + FAR_AHEAD < begins && begins < until && until !== Infinity

/** Parse an end time to epoch milliseconds: Infinity for null ("until a user clears it"), 0 for an invalid time. */
function ending(until) {
  if (until === null) return Infinity
  if (typeof until !== "string") return 0
  return Date.parse(/(Z|[+-]\d\d:?\d\d)$/i.test(until) ? until : `${until}Z`) || 0
}

/** Show a toast with the fallback, once per cooldown: the TUI still displays the chosen model. */
function showFallback(client, asked, entry, target) {
  const until = entry.until === Infinity ? "until it is cleared" : `until ${new Date(entry.until).toLocaleTimeString()}`
  const title = `${asked} is ${entry.reset_source === FORESEEN ? "about to be " : ""}limited`
  toast(client, [asked, entry.since, target.model].join(" "), title, `Prompts go to ${target.model} ${until}.`)
}

/** Show a toast that prompts return to the primary, once per session: the TUI still displays the fallback. */
function showReturn(client, model, session) {
  toast(client, [model, session].join(" "), `${model} is available again`, `Prompts go to it, until you choose another.`)
}

/** Show a toast, once for each `matter`. */
function toast(client, matter, title, message) {
  if (shared.told.has(matter)) return
  shared.told.add(matter)
  const body = { title: printable(title), message: printable(message), variant: "warning", duration: 8000 }
  Promise.resolve(client?.tui?.showToast?.({ body })).catch((fault) => note("toast", fault))
}

/** Replace control and separator characters of names, which come from logs and files, for terminals and log lines. */
const printable = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?")

const nameOf = (model) => (model?.providerID && model?.modelID ? `${model.providerID}/${model.modelID}` : undefined)
const isModel = (name) => typeof name === "string" && /^[^/]+\/./.test(name)
const isName = (name) => isModel(name) && [...name].length <= NAME_CAP && name.trim() === name && !UNPRINTABLE.test(name)
const partsOf = (name) => ({ providerID: name.slice(0, name.indexOf("/")), modelID: name.slice(name.indexOf("/") + 1) })

/** Return the name of the first listed plugin that also changes models. An entry may be [name, options]. */
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

/** Return lstat of a path; undefined if the path does not exist or access fails. */
function statOf(path) {
  try {
    return lstatSync(path)
  } catch {
    return undefined
  }
}

/** Return whether this user id is ours. For root (as under `sudo`), HOME's owner counts too. */
const isOurs = (uid) => uid === me || (me === 0 && uid === homeOwner())

function homeOwner() {
  try {
    return isAbsolute(home) ? statSync(home).uid : 0
  } catch {
    return 0
  }
}

/**
 * Return why our state directory must not be used; undefined if it is safe. ocwatchd/ownership.py makes the same check.
 */
function untrusted() {
  if (!isAbsolute(home)) return `HOME is ${home ? `"${home}", which is not an absolute path` : "not set"}`
  const link = statOf(state)
  if (!link) return
  if (link.isSymbolicLink() && link.uid !== 0 && !isOurs(link.uid)) return `${state} is a link that belongs to user ${link.uid}`
  try {
    const { uid } = statSync(state)
    if (!isOurs(uid)) return `${state} belongs to user ${uid}, not to you; see: ocwatch doctor`
  } catch {
    // a dangling link, or no access: reading finds no file, and writing reports the fault itself
  }
}

/** Return why the plugin must stay inactive: ocwatchd is gone, as after `pip uninstall` without `ocwatch down`. */
function uninstalled() {
  const program = attempt("program", () => (statOf(join(state, "program")) ? textOf(join(state, "program")).trim() : ""))
  if (!program || statOf(program)) return
  return `ocwatchd was uninstalled, so its plugin does nothing. To remove it, delete ${import.meta.url.replace("file://", "")}`
}

/** Return whether the uninstallation is noticed for the first time. It is reported only once, not at every start. */
function firstTime() {
  const mark = join(state, "uninstalled")
  return !statOf(mark) && attempt("uninstalled", () => opened(mark, O_WRONLY | O_CREAT | O_EXCL, () => true)) === true
}

/** Return `digest` of one of the daemon's files; undefined after a fault. A file is read again only after a change. */
function read(path, digest) {
  const info = untrusted() ? undefined : statOf(path)
  const mark = info && `${info.ino} ${info.mtimeMs} ${info.size}`
  const known = shared.files.get(path)
  if (known && known.mark === mark) return known.value
  const value = info?.isFile() ? attempt(path, () => understood(JSON.parse(textOf(path)), digest)) : undefined
  shared.files.set(path, { mark, value })
  return value
}

/** Return the text of one of our plain files. Throws for any other file, and never blocks, even on a pipe. */
function textOf(path) {
  return opened(path, O_RDONLY, (fd) => {
    if (fstatSync(fd).size > FILE_CAP) throw new Error(`${path} is too long`)
    return readFileSync(fd, "utf8")
  })
}

/** Open one of our plain files for `work`. A file that root creates is given to the owner of its directory. */
function opened(path, flags, work) {
  const fd = openSync(path, flags | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    const info = fstatSync(fd)
    if (!info.isFile() || (info.uid !== 0 && !isOurs(info.uid))) throw new Error(`${path} is not one of our plain files`)
    if (flags & O_CREAT && me === 0) give(fd, dirname(path))
    return work(fd)
  } finally {
    closeSync(fd)
  }
}

function give(fd, directory) {
  const { uid, gid } = statSync(directory)
  if (uid !== 0) fchownSync(fd, uid, gid)
}

/** Replace one of our files atomically. */
function replace(path, text) {
  const temporary = `${path}.${process.pid}.tmp`
  rmSync(temporary, { force: true }) // a dead process with the same pid may have left this file
  opened(temporary, O_WRONLY | O_CREAT | O_EXCL, (fd) => writeSync(fd, text))
  renameSync(temporary, path)
}

const understood = (document, digest) =>
  (document?.version ?? FILE_VERSION) <= FILE_VERSION ? digest(document) : undefined

/** Update PID.json, from which `ocwatch doctor` describes this process. */
function describe(change) {
  Object.assign(shared.about, change)
  const unknown = { opencode: null, directory: null, door: null, standing_back: null }
  const about = { version: 1, pid: process.pid, plugin: VERSION, ...unknown, ...shared.about }
  privateDirectory(endpoints)
  replace(ownFile("json"), JSON.stringify(about) + "\n")
}

const ownFile = (kind) => join(endpoints, `${process.pid}.${kind}`)

/**
 * Create a directory in our state directory, for this user only. Throws if either directory belongs to another user, or
 * if the new one is a link.
 */
function privateDirectory(path) {
  const trouble = untrusted()
  if (trouble) throw new Error(trouble)
  makeDirectory(path)
  for (const [place, link] of [[state, 0], [path, O_NOFOLLOW]]) {
    const fd = openSync(place, O_RDONLY | O_DIRECTORY | link)
    try {
      const { uid, mode } = fstatSync(fd)
      if (!isOurs(uid)) throw new Error(`${place} is not one of our directories`)
      if (mode & 0o077) fchmodSync(fd, 0o700)
    } finally {
      closeSync(fd)
    }
  }
}

/** Create a directory and its missing parents. Directories that root creates are given to the parent's owner. */
function makeDirectory(path) {
  if (statOf(path)) return
  makeDirectory(dirname(path))
  mkdirSync(path, { recursive: true, mode: 0o700 }) // recursive: another thread may have been faster
  if (me !== 0) return
  const fd = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  try {
    give(fd, dirname(path))
  } finally {
    closeSync(fd)
  }
}

function append(path, line, cap) {
  if ((statOf(path)?.size ?? 0) > cap) renameSync(path, `${path}.1`)
  opened(path, O_WRONLY | O_APPEND | O_CREAT, (fd) => writeSync(fd, line + "\n"))
}

/** Run `work` and return its result. A fault is logged once and not thrown. */
function attempt(where, work) {
  try {
    return work()
  } catch (fault) {
    note(where, fault)
  }
}

function note(where, fault) {
  try {
    const text = printable(`${where}: ${String(fault?.message ?? fault).slice(0, 300)}`)
    if (shared.noted.has(text) || shared.noted.size > 100 || untrusted()) return
    shared.noted.add(text)
    append(join(state, "plugin-errors.log"), `${new Date().toISOString()} ${process.pid} ${text}`, ERRORS_CAP)
  } catch {
    // the fault log itself cannot be written
  }
}

const tools = {
  ...{ shared, state, endpoints, ownFile, describe, privateDirectory, append, replace, statOf, attempt, note },
  ...{ blocking, cooling, limited, overBudget, ending, nameOf, isModel, partsOf, read },
  listed: () => read(blacklist, understand),
  membersFor: (target, session) => parts.pools.membersFor(target, session),
  ...{ untrusted, isOurs, redirect, rivalIn },
  originOf: (session) => parts.origin.originOf(session),
  share: (one, other) => parts.pools.share(one, other),
  ask: (question) => parts.decisions.ask(question),
  created: (session) => parts.pools.created(session),
  pools: () => read(blacklist, understand)?.pools ?? [],
}
