// ocwatchd companion plugin, version 1
//
// Where a session's prompts came from and go to: by the daemon's last move (moved.json) or by prevention (origins/),
// whichever is later. A prompt goes back once its first model is free, unless a person chose another.

import { lstatSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"

const KEPT = 30 * 86400e3 // ms after its last prevented prompt that a session's origin is remembered
const REMEMBERED = 500 // sessions

export function part({ shared, state, read, attempt, privateDirectory, cooling, nameOf, isModel, partsOf, share }) {
  const moved = join(state, "moved.json")
  const origins = join(state, "origins")
  const choices = join(dirname(state), "opencode", "model.json") // what was chosen in TUIs, the latest first
  shared.origins ??= new Map() // session -> {from, to, since}; from and to are {model, agent}
  attempt("origins", tidy)
  shared.chosen ??= lastChoice()

  /** {from, to, since}; without `from` its prompts go where they always went. */
  function originOf(session) {
    const own = shared.origins.get(session) ?? kept(session)
    const { from, to, since } = read(moved, ({ sessions }) => sessions)?.[session] ?? {}
    return !isModel(from?.model) || own.since >= Date.parse(since) ? own : { from, to, since }
  }

  function remember(session, from, to) {
    if (!session) return
    const origin = { version: 1, from, to, since: Date.now() }
    const known = shared.origins.get(session)
    shared.origins.delete(session)
    shared.origins.set(session, origin)
    if (known && same(known.from, from) && same(known.to, to)) return
    if (shared.origins.size > REMEMBERED) shared.origins.delete(shared.origins.keys().next().value)
    attempt("origins", () => {
      privateDirectory(origins)
      writeFileSync(`${fileOf(session)}.${process.pid}.tmp`, JSON.stringify(origin) + "\n", { mode: 0o600 })
      renameSync(`${fileOf(session)}.${process.pid}.tmp`, fileOf(session))
    })
  }

  /**
   * Give a prompt back to the model that its session came from; true if it named another one.
   *
   * Without a model OpenCode goes on with the session's last: after a move the target, which nobody chose. A TUI of
   * 1.1 and later names that one itself, as if it had been chosen, once it shows the session anew.
   */
  function giveBack(message, { model, sessionID }) {
    const chosen = chosenSince()
    const { from, to } = originOf(sessionID)
    const named = nameOf(model)
    if (!from || named === from.model) return
    const echoed = named === to?.model && inTui() && chosen !== named
    if (named && !echoed) return remember(sessionID) // the user's own choice stays
    if (nameOf(message?.model) !== to?.model || cooling(from.model)) return
    if (share(from.model, to.model)) return // it would lose that provider's cache a second time
    const agentToo = echoed && from.agent && to.agent && from.agent !== to.agent && message.agent === to.agent
    if (agentToo) message.agent = from.agent
    else if (shared.bound.get(message.agent) === to.model) return // that agent's own
    message.model = partsOf(from.model)
    return echoed
  }

  /** The model that a person chose in a TUI since the last prompt. */
  function chosenSince() {
    const before = shared.chosen
    shared.chosen = lastChoice()
    return shared.chosen === before ? undefined : shared.chosen
  }

  function lastChoice() {
    return read(choices, ({ recent }) => nameOf(recent?.[0]))
  }

  function fileOf(session) {
    return join(origins, `${encodeURIComponent(session).slice(0, 100)}.json`)
  }

  /** As an earlier process left it. */
  function kept(session) {
    const { from, to, since } = (session && read(fileOf(session), (document) => document)) ?? {}
    return isModel(from?.model) && isModel(to?.model) ? { from, to, since } : { since }
  }

  function tidy() {
    if (!lstatSync(origins, { throwIfNoEntry: false })?.isDirectory()) return
    const old = (path) => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs < Date.now() - KEPT
    for (const path of readdirSync(origins).map((name) => join(origins, name))) if (old(path)) rmSync(path)
  }

  return { originOf, remember, giveBack }
}

const same = (one, other) => one?.model === other?.model && one?.agent === other?.agent

/** A TUI's sessions run in a worker thread (1.0 - 1.18); what comes over a server's API was named on purpose. */
const inTui = () => globalThis.Bun?.isMainThread === false
