// ocwatchd companion plugin, version 1
//
// Records which model each session was moved from and to: by the daemon's last move (moved.json) or by prevention
// (origins/), whichever is later. Prompts return to the primary once it is available, unless the user chose another.

import { readdirSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"

const KEPT = 30 * 86400e3 // ms that a session's origin is kept after its last prevented prompt
const CLOCK_WRONG = 365 * 86400e3 // ms since the newest origin; a longer time means that the clock is wrong
const REMEMBERED = 500 // sessions

export function part(tools) {
  const { shared, state, read, statOf, replace, attempt, privateDirectory } = tools
  const { cooling, nameOf, isModel, partsOf, share } = tools
  const moved = join(state, "moved.json")
  const origins = join(state, "origins")
  const choices = join(dirname(state), "opencode", "model.json") // models chosen in TUIs, the latest first
  shared.origins ??= new Map() // session -> {from, to, since}; `from` and `to` are {model, agent}
  attempt("origins", tidy)
  shared.chosen ??= lastChoice()

  /** Return a session's {from, to, since}. Without `from`, its prompts do not return to another model. */
  function originOf(session) {
    const own = shared.origins.get(session) ?? kept(session)
    const { from, to, since } = read(moved, ({ sessions }) => sessions)?.[session] ?? {}
    return !isModel(from?.model) || own.since >= Date.parse(since) ? own : { from, to, since }
  }

  /** Record that a session's prompts go to `to` instead of `from`; without both, that the user's own choice applies. */
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
      replace(fileOf(session), JSON.stringify(origin) + "\n")
    })
  }

  /**
   * Send a prompt back to its session's primary if the primary is available. Return true if the prompt named the
   * fallback.
   *
   * A prompt without a model uses the session's last model, which is the fallback after a move. After reopening a
   * session, a TUI of 1.1 or later names that model itself, as if the user had chosen it.
   */
  function returnToPrimary(message, { model, sessionID }) {
    const chosen = chosenSince()
    const { from, to } = originOf(sessionID)
    const named = nameOf(model)
    if (!from || named === from.model) return
    const echoed = named === to?.model && inTui() && chosen !== named
    if (named && !echoed) return remember(sessionID) // the user chose this model
    if (nameOf(message?.model) !== to?.model || cooling(from.model)) return
    if (share(from.model, to.model)) return // equal models: returning would lose the provider's cache a second time
    const agentToo = echoed && from.agent && to.agent && from.agent !== to.agent && message.agent === to.agent
    if (agentToo) message.agent = from.agent
    else if (shared.bound.get(message.agent) === to.model) return // the agent's own model
    message.model = partsOf(from.model)
    return echoed
  }

  /** Return the model that the user has chosen in a TUI since the last prompt; undefined if there is none. */
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

  /** Return the origin that an earlier process has saved. */
  function kept(session) {
    const { from, to, since } = (session && read(fileOf(session), (document) => document)) ?? {}
    return isModel(from?.model) && isModel(to?.model) ? { from, to, since } : { since }
  }

  /** Remove origins that are older than KEPT. */
  function tidy() {
    if (!statOf(origins)?.isDirectory()) return
    const written = (path) => statOf(path)?.mtimeMs ?? Infinity
    const files = readdirSync(origins).map((name) => [join(origins, name), written(join(origins, name))])
    const last = Math.max(...files.map(([, time]) => time))
    if (Date.now() - last > CLOCK_WRONG) return
    for (const [path, time] of files) if (time < Date.now() - KEPT) attempt("origins", () => rmSync(path))
  }

  return { originOf, remember, returnToPrimary }
}

const same = (one, other) => one?.model === other?.model && one?.agent === other?.agent

/** Return whether this is the worker thread in which a TUI's sessions run (1.0 - 1.18), not a server. */
const inTui = () => globalThis.Bun?.isMainThread === false
