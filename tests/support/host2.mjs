// A STAND-IN for the released OpenCode 2 (2.0 to 2.3), whose binaries cannot be fetched here. It imitates the session
// runner, the plugin host and the events, after public sources. It is not OpenCode: tests on it prove the contract only.
// Reads {plugin, steps, clock} from standard input and prints one JSON result per step.
//
// Imitated behaviour and its sources (paths of the 2.0.26 tree, `packages/`):
//   plugin: default export {id, setup(ctx)}, imported by its URL with ?mtime=        core/src/plugin/module.ts
//   hooks are awaited one by one in the order of registration, without a timeout     core/src/plugin/hooks.ts
//   a hook that throws ends the turn                                                 core/src/plugin/hooks.ts
//   retry: called for every model error, `attempt` from 2, 10 retries; maybe called
//     twice for one attempt; changes `decision`; invalid delay: the proposed one     core/src/session/runner/llm.ts
//   the hook is called before session.retry.scheduled                                core/src/session/runner/llm.ts
//   after hook and wait, session and model are read again, the message is the same   core/src/session/runner/llm.ts
//   quota, auth, invalid request: the proposed decision is not to retry              core/src/session/runner/retry.ts
//   delays 2, 4, 8, then 10 s, raised by Retry-After up to 15 min                    core/src/session/runner/retry.ts
//   an interrupt ends the turn; a hook that is still running continues               core/src/session/execution
//   compaction calls the same hook without a field that says so, and has no event    core/src/session/compaction.ts
//   prompt: called before admission, names no model                                  core/src/session/inbox
//   switchModel: no event if nothing changes                                         core/src/session.ts
//   events {type, created, data}, a few ms late                                      schema/src/session-event.ts

import { mkdirSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { dirname } from "node:path"

const { plugin, steps, clock = "virtual", socket, before = [], after = [] } = JSON.parse(await Bun.stdin.text())
const real = { setTimeout, clearTimeout, now: Date.now }
const SHORT = 50 // ms: Bun's own sockets use shorter timers, the plugin does not
const LIMIT = 20_000 // ms of real time that any wait may take

// ---- time

const timers = new Map()
let now = real.now()
let ids = 0
if (clock === "virtual") {
  Date.now = () => now
  globalThis.setTimeout = (work, ms = 0, ...rest) => {
    if (ms < SHORT) return real.setTimeout(work, ms, ...rest)
    const id = ++ids
    timers.set(id, { at: now + ms, work: () => work(...rest) })
    return { unref() {}, ref() {}, id }
  }
  globalThis.clearTimeout = (timer) => void (timers.delete(timer?.id) || real.clearTimeout(timer))
}

const breathe = () => new Promise((done) => real.setTimeout(done, 2))

/** Advance virtual time, from timer to timer. */
async function advance(ms) {
  const end = now + ms
  for (;;) {
    await breathe()
    const [id, next] = [...timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0] ?? []
    if (!next) break
    timers.delete(id)
    now = Math.max(now, next.at)
    next.work()
  }
  now = end
  await breathe()
}

async function until(what, test) {
  const end = real.now() + LIMIT
  while (!test()) {
    if (real.now() > end) throw new Error(`waited in vain for ${what}`)
    await breathe()
  }
}

// ---- the plugin host

const hooks = {}
const listeners = new Set()
const events = []
const timed = []

function publish(type, data) {
  const event = { type: `session.${type}`, created: Date.now(), data }
  events.push(event)
  real.setTimeout(() => listeners.forEach((hear) => hear(event)), 1)
}

async function call(name, event) {
  for (const hook of hooks[name] ?? []) await hook(event)
  return event
}

const context = {
  location: { directory: "/project" },
  session: {
    hook: async (name, work) => void (hooks[name] ??= []).push(work),
    get: async ({ sessionID }) => structuredClone(sessions[sessionID]),
    switchModel: async ({ sessionID, model }) => select(sessionID, model),
    switchAgent: async ({ sessionID, agent }) => void (sessions[sessionID].agent = agent),
  },
  model: { default: async () => modelOf("mock/a") },
  plugin: { list: async () => ({ data: [{ id: "ocwatchd.rate-limit-fallback" }, ...plugins] }) },
  event: {
    async *subscribe({ signal } = {}) {
      const queue = []
      let wake
      const hear = (event) => (queue.push(event), wake?.())
      listeners.add(hear)
      signal?.addEventListener("abort", () => wake?.())
      while (!signal?.aborted) {
        while (queue.length) yield queue.shift()
        await new Promise((done) => (wake = done))
      }
      listeners.delete(hear)
    },
  },
}
const plugins = []

// ---- sessions and the runner's loop

const sessions = {}
const turns = {}
const requests = []
const script = {}
let asksTwice = false
let messages = 0

const modelOf = (name) => ({ providerID: name.slice(0, name.indexOf("/")), id: name.slice(name.indexOf("/") + 1) })
const nameOf = ({ providerID, id }) => `${providerID}/${id}`

function select(sessionID, model) {
  const session = sessions[sessionID]
  if (session.model && nameOf(session.model) === nameOf(model)) return
  const previous = session.model
  session.model = model
  publish("model.selected", { sessionID, model, previous })
}

const FINAL = ["provider.quota", "provider.auth", "provider.invalid-request", "provider.content-filter"]
const DELAYS = [2000, 4000, 8000]

function proposal({ error, retryAfter }, retries) {
  if (FINAL.includes(error.type)) return { retry: false }
  const own = DELAYS[retries] ?? 10_000
  return { retry: true, delay: Math.min(Math.max(own, retryAfter ?? 0), 15 * 60e3) }
}

const sound = (decision) => decision?.retry === false || (decision?.retry === true && decision.delay >= 0)

async function ask(sessionID, agent, model, outcome, retries) {
  const proposed = proposal(outcome, retries)
  let event
  for (let times = asksTwice ? 2 : 1; times > 0; times--) {
    const asked = { sessionID, agent, model: structuredClone(model), error: outcome.error, attempt: retries + 2 }
    event = { ...asked, decision: structuredClone(proposed) }
    const began = performance.now()
    await call("retry", event)
    timed.push((performance.now() - began) / 1000)
  }
  return sound(event.decision) ? event.decision : proposed
}

function answerOf(model) {
  const left = script[nameOf(model)] ?? []
  const outcome = left.length > 1 ? left.shift() : left[0]
  return outcome ?? {}
}

class Interrupted extends Error {}

async function turn(sessionID) {
  const session = sessions[sessionID]
  const { promise: interrupted, reject } = Promise.withResolvers()
  interrupted.catch(() => {})
  const run = (turns[sessionID] = { interrupt: () => reject(new Interrupted()), ended: false })
  const or = (work) => Promise.race([work, interrupted])
  publish("execution.started", { sessionID })
  const assistantMessageID = `msg_${++messages}`
  let end = "succeeded"
  try {
    for (let retries = 0; ; retries++) {
      const { agent } = session
      const model = session.model ?? modelOf("mock/a")
      await or(call("context", { sessionID, agent, model, messages: session.messages ?? [] }))
      requests.push({ session: sessionID, model: nameOf(model), message: assistantMessageID, at: performance.now() / 1000 })
      const outcome = answerOf(model)
      publish("step.started", { sessionID, assistantMessageID, agent, model })
      await breathe()
      if (!outcome.error) {
        publish("step.ended", { sessionID, assistantMessageID })
        break
      }
      const decision = retries < 10 ? await or(ask(sessionID, agent, model, outcome, retries)) : { retry: false }
      if (!decision.retry) {
        publish("step.failed", { sessionID, assistantMessageID, error: outcome.error })
        end = "failed"
        break
      }
      const [attempt, at] = [retries + 2, Date.now() + decision.delay]
      publish("retry.scheduled", { sessionID, assistantMessageID, attempt, at, error: outcome.error })
      if (decision.delay > 0) await or(new Promise((done) => setTimeout(done, decision.delay)))
    }
  } catch (fault) {
    end = fault instanceof Interrupted ? "interrupted" : "died"
    if (end === "died") publish("step.failed", { sessionID, assistantMessageID, error: { type: "unknown", message: String(fault) } })
  }
  publish(`execution.${end}`, { sessionID, ...(end === "interrupted" && { reason: "user" }) })
  run.ended = end
}

// ---- the daemon, if a test simulates it: its answers to the questions, in order

const questions = []
const reports = []
const held = []
let answers = []
let server

async function listen({ path, answers: given }) {
  answers = given
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  rmSync(path, { force: true })
  server = createServer((line) => {
    let text = ""
    line.on("error", () => {})
    line.on("data", (piece) => {
      text += piece
      for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n")) {
        const said = JSON.parse(text.slice(0, at))
        text = text.slice(at + 1)
        if ("done" in said || "answers" in said) reports.push(said)
        else answer(line, said)
      }
    })
  })
  await new Promise((done) => server.listen(path, done))
}

function answer(line, question) {
  questions.push(question)
  const given = answers.length > 1 ? answers.shift() : answers[0]
  held.push(line)
  if (given === "silence") return
  if (given === "close") return line.destroy()
  line.write(typeof given === "string" ? given : JSON.stringify({ version: 1, ...given }) + "\n")
}

// ---- steps

const seen = () => ({
  requests: requests.map(({ at, ...rest }) => rest),
  questions,
  reports,
  sessions: Object.fromEntries(Object.entries(sessions).map(([id, { model, agent }]) => [id, { model: model && nameOf(model), agent }])),
  events: events.map(({ type, data }) => ({ type, ...data })),
  ended: Object.fromEntries(Object.entries(turns).map(([id, { ended }]) => [id, ended])),
})

const actions = {
  async start() {
    for (const [name, decision] of before) await context.session.hook(name, (event) => void (event.decision = decision))
    const { default: ours } = await import(`${plugin}?mtime=1`)
    if (typeof ours !== "object" || typeof ours.id !== "string" || typeof ours.setup !== "function") throw new Error("no plugin")
    context.ended = await ours.setup(context)
    for (const [name, decision] of after) await context.session.hook(name, (event) => void (event.decision = decision))
    return Object.keys(hooks).sort()
  },
  daemon: (step) => listen({ path: socket, ...step }),
  session({ id, model, agent = "build", parent, messages }) {
    sessions[id] = { id, messages, agent, parentID: parent, model: model && modelOf(model) }
    publish("created", { sessionID: id })
  },
  script: ({ model, outcomes }) => void (script[model] = outcomes),
  twice: () => void (asksTwice = true),
  rival: ({ id }) => void plugins.push({ id }),
  /** Admit a prompt and run its turn, to its end or, with `wait` false, in the background. */
  async prompt({ session, wait = true }) {
    const messageID = `msg_${++messages}`
    await call("prompt", { sessionID: session, messageID, prompt: { text: "Hello" }, metadata: {}, delivery: "steer" })
    publish("inbox.enqueued", { sessionID: session, inboxID: messageID })
    const running = turn(session)
    running.catch(() => {})
    if (wait) await running
    return turns[session].ended
  },
  async ended({ session }) {
    await until("the end of the turn", () => turns[session].ended)
    return turns[session].ended
  },
  async compact({ session }) {
    const { model, agent } = sessions[session]
    await call("compaction", { sessionID: session })
    const decision = await ask(session, agent, model, answerOf(model), 0)
    await breathe()
    return decision
  },
  interrupt: ({ session }) => turns[session].interrupt(),
  select: ({ session, model }) => select(session, modelOf(model)),
  advance: ({ ms }) => advance(ms),
  asked: ({ times }) => until(`${times} questions`, () => questions.length >= times),
  reported: ({ times }) => until(`${times} reports`, () => reports.length >= times),
  waits: ({ times = 1 }) => until("a wait", () => events.filter(({ type }) => type === "session.retry.scheduled").length >= times),
  say: ({ at, ...answer }) => void held[at ?? held.length - 1].write(JSON.stringify({ version: 1, ...answer }) + "\n"),
  hangup: () => (held.forEach((line) => line.destroy()), server.close()),
  breathe: async ({ times = 10 }) => { for (let i = 0; i < times; i++) await breathe() },
  write: async ({ path, text }) => void (await Bun.write(path, text)),
  seen: () => structuredClone(seen()),
  times: () => ({ hooks: timed, requests }),
}

const results = []
for (const { act, ...rest } of steps) {
  try {
    results.push((await actions[act](rest)) ?? null)
  } catch (fault) {
    results.push({ thrown: String(fault?.stack ?? fault) })
  }
}
console.log(JSON.stringify(results))
process.exit(0)
