// ocwatchd companion plugin, version 1
//
// The hooks of OpenCode 2. If a prompt's model is cooling down, `prompt` sends the prompt to a fallback before any
// request is made. After a refused attempt, `retry` asks the daemon what to do: switch the session's model and continue
// the same step immediately, hold the attempt until a model is available, or change nothing.
//
// Both hooks are known from the published contract of 2.0 and 2.1; the preview 0.0.0-next-16350 calls neither.

const CALL_TIMEOUT = 2000 // ms within which OpenCode itself must answer
const OVERDUE = 5000 // ms after the planned end of a hold during which the daemon can still end it
const MAX_TIMER = 60e3 // ms; with short timers, the end of a hold is noticed soon after a suspended machine wakes up
const MAX_TEXT = 16 << 10 // characters of an error's message and body that are sent
const REMEMBERED = 500 // sessions
const CHARS_PER_TOKEN = 4 // as in floor.js
const DEEP = 12 // levels of a message that are examined
const MEDIA = ["image", "audio", "video"]
const VERIFY_TIMEOUT = 600e3 // ms within which a fallback must begin its answer
const RESUBSCRIBE = 1000 // ms before a new subscription to the events
const PURPOSES = ["compaction", "title", "summary"] // agents that write no answers

export function part(tools) {
  const { shared, describe, note, ask, redirect, rivalIn, created, nameOf, partsOf } = tools
  shared.questions ??= new Map() // session -> {key, step}: the last question to the daemon, and its result
  shared.steps ??= new Map() // session -> the id of the running step's message
  shared.compacting ??= new Set() // sessions that are being compacted
  shared.stops ??= new Map() // session -> functions to call when the session is interrupted or another model is chosen
  shared.ours ??= new Map() // session -> the last model that the plugin has chosen
  shared.picked ??= new Map() // session -> the model that the user has chosen since the session's last prompt
  shared.called ??= new Set() // hooks that OpenCode has called
  shared.moved ??= new Map() // session -> {model, begun, tell}: a move whose answer is awaited
  shared.contexts ??= new Map() // session -> messages sent by its running step, until its turn ends

  async function start(context) {
    const closed = new AbortController()
    describe({ generation: 2, door: false, hooks: [...shared.called] })
    const hooks = {
      prompt: (event) => prompted(context, event),
      compaction: (event) => void keep(shared.compacting, event?.sessionID),
      context: (event) => stepStarts(event),
      retry: (event) => refused(context, event),
    }
    for (const [name, work] of Object.entries(hooks)) await register(context, name, work)
    follow(context, closed.signal).catch((fault) => note("events", fault))
    return () => closed.abort()
  }

  /** Register a hook whose faults are only logged: a hook that throws would end the turn. */
  async function register(context, name, work) {
    const safe = async (event) => {
      try {
        if (!shared.called.has(name)) describe({ hooks: [...shared.called.add(name)].sort() })
        await work(event)
      } catch (fault) {
        note(name, fault)
      }
    }
    try {
      await context.session.hook(name, safe)
    } catch (fault) {
      note(`hook ${name}`, fault)
    }
  }

  /** Store the messages of a step. OpenCode calls this hook before the request of a step, but not of a compaction. */
  function stepStarts({ sessionID: session, messages }) {
    shared.compacting.delete(session)
    keepEntry(shared.contexts, session, messages)
  }

  // ---- prevention

  /** Switch the session to a fallback if its own model, which the prompt will use, is cooling down. */
  async function prompted(context, { sessionID: session, prompt }) {
    shared.questions.delete(session)
    if (!session || (await rival(context))) return
    const { model, agent, parent } = await sessionOf(context, session)
    const asked = model ?? (await standardModel(context))
    if (!asked) return
    const picked = shared.picked.get(session)
    shared.picked.delete(session)
    const message = { sessionID: session, agent, model: partsOf(asked) }
    const output = { message, parts: (prompt?.files ?? []).map(({ mime }) => ({ type: "file", mime })) }
    await redirect(output, { sessionID: session, model: picked && partsOf(picked) }, undefined)
    const target = nameOf(message.model)
    if (target === asked) return
    await choose(context, session, target)
    if (message.agent !== agent && !parent) await chooseAgent(context, session, message.agent)
  }

  // ---- a refused attempt

  /** Decide what OpenCode does after a refused attempt. The daemon is asked once per attempt. */
  async function refused(context, event) {
    const { sessionID: session, agent, attempt } = event
    const model = modelName(event.model)
    if (!session || !model || shared.compacting.has(session) || PURPOSES.includes(agent)) return
    const key = JSON.stringify([shared.steps.get(session), attempt, model])
    let known = shared.questions.get(session)
    if (known?.key !== key) {
      if (await rival(context)) return
      known = shared.questions.get(session) // a second call may have asked while we waited
      if (known?.key !== key) keepEntry(shared.questions, session, (known = { key, step: decided(context, event, model) }))
    }
    const decision = await known.step
    if (decision) event.decision = decision
  }

  /** Ask the daemon about a refused attempt. Return OpenCode's next step; undefined leaves it unchanged. */
  async function decided(context, event, model) {
    const session = event.sessionID
    endVerification(session, `${shared.moved.get(session)?.model} was refused as well`)
    const stopped = untilStopped(session, model)
    try {
      const answer = await ask(questionOf(event, model, context))
      if (!answer) return
      const verdict = answer.verdict === "hold" ? await verdictAfterHold(answer, stopped) : answer
      return await carryOut(context, session, model, verdict, stopped, answer.done)
    } catch (fault) {
      note("retry", fault)
    } finally {
      stopped.forget()
    }
  }

  /** Return the verdict that ends the wait of a held attempt. */
  async function verdictAfterHold(answer, stopped) {
    const overdue = timer(answer.until * 1000 + OVERDUE)
    try {
      return await Promise.race([answer.later, stopped.promise, overdue.promise])
    } finally {
      overdue.forget()
    }
  }

  /** Carry out a verdict and report the result with `done`. */
  async function carryOut(context, session, model, verdict, stopped, done) {
    const untouched = (why) => void done({ version: 1, done: false, why })
    if (stopped.why === "interrupted") return untouched("the turn was stopped")
    if (!verdict || verdict.verdict === "untouched") return untouched("there was nothing to do")
    const current = (await sessionOf(context, session)).model
    if (current && current !== model) {
      untouched(`the session is on ${current}`)
      return verdict.verdict === "chosen" ? { retry: true, delay: 0 } : undefined
    }
    if (verdict.verdict === "move") {
      if (stopped.why) return untouched(`the turn was ${stopped.why}`)
      await choose(context, session, verdict.model)
      if (verdict.agent) await chooseAgent(context, session, verdict.agent)
      done({ version: 1, done: true, later: true })
      verify(session, verdict.model).then((result) => done({ version: 1, ...result }))
    } else {
      done({ version: 1, done: true })
    }
    return { retry: true, delay: 0 }
  }

  /**
   * Resolve to {answers: true} when the session's new model has begun to answer, otherwise to {answers: false, why}.
   */
  function verify(session, model) {
    endVerification(session, "the session was moved again")
    const late = timer(Date.now() + VERIFY_TIMEOUT)
    const { promise, resolve } = Promise.withResolvers()
    const tell = (result) => (late.forget(), shared.moved.delete(session), resolve(result))
    keepEntry(shared.moved, session, { model, begun: false, tell })
    late.promise.then(() => tell({ answers: false, why: `${model} has not begun to answer` }))
    return promise
  }

  function endVerification(session, why) {
    shared.moved.get(session)?.tell({ answers: false, why })
  }

  /**
   * Check whether an event ends a verification. Events before the beginning of the new step are about the previous
   * step.
   */
  function progressed(session, type, { model, error } = {}) {
    const move = shared.moved.get(session)
    if (!move) return
    if (type === "session.step.started") move.begun = modelName(model) === move.model
    else if (type === "session.execution.interrupted") move.tell({ answers: false, why: "the turn was stopped" })
    else if (!move.begun) return
    else if (/^session\.(retry\.|(step|execution)\.failed)/.test(type))
      move.tell({ answers: false, why: `${move.model} was refused: ${String(error?.type ?? type).slice(0, 100)}` })
    else if (/^session\.(text|reasoning|tool|step|execution)\./.test(type)) move.tell({ answers: true })
  }

  function questionOf({ sessionID, agent, attempt, error, decision, model: { variant } }, model, context) {
    const { type, message, status, response } = error ?? {}
    const cut = (text) => (typeof text === "string" ? text.slice(0, MAX_TEXT) : undefined)
    return {
      version: 1,
      ...{ pid: process.pid, time: Date.now() / 1000, session: sessionID, message: shared.steps.get(sessionID) },
      ...{ agent, model, variant, attempt, decision, directory: context.location?.directory },
      needs: needsOf(shared.contexts.get(sessionID)),
      error: { type, message: cut(message), status, response: { body: cut(response?.body) } },
    }
  }

  // ---- events

  async function follow(context, signal) {
    while (!signal.aborted) {
      const events = await context.event?.subscribe?.({ signal })
      if (!events?.[Symbol.asyncIterator]) return
      for await (const event of events) {
        if (signal.aborted) return
        handle(event ?? {})
      }
      await new Promise((done) => setTimeout(done, RESUBSCRIBE).unref?.())
    }
  }

  function handle({ type, data }) {
    const session = data?.sessionID ?? data?.info?.id
    if (typeof session !== "string" || typeof type !== "string") return
    if (type === "session.created") return created(session)
    progressed(session, type, data)
    if (type === "session.model.selected") return selected(session, modelName(data.model))
    if (type === "session.step.started") keepEntry(shared.steps, session, data.assistantMessageID)
    if (type === "session.execution.interrupted") stop(session, "interrupted")
    if (/^session\.(execution|compaction)\./.test(type) && !/started$/.test(type)) shared.compacting.delete(session)
    if (!/^session\.execution\./.test(type)) return
    shared.questions.delete(session)
    if (!/started$/.test(type)) shared.contexts.delete(session)
  }

  /** Record that a model was chosen for a session, by the plugin or by the user. */
  function selected(session, model) {
    if (shared.ours.get(session) === model) return void shared.ours.delete(session)
    if (!model) return
    keepEntry(shared.picked, session, model)
    stop(session, "given another model", model)
  }

  function stop(session, why, model) {
    for (const end of shared.stops.get(session) ?? []) end(why, model)
  }

  /** Return a promise that resolves when the turn is interrupted or a model other than `model` is chosen. */
  function untilStopped(session, model) {
    const { promise, resolve } = Promise.withResolvers()
    const ends = shared.stops.get(session) ?? new Set()
    const end = (why, other) => {
      if (other === model) return
      stopped.why ??= why
      resolve({ verdict: other ? "chosen" : "untouched" })
    }
    const stopped = {
      promise,
      why: undefined,
      forget() {
        ends.delete(end)
        if (!ends.size) shared.stops.delete(session)
      },
    }
    shared.stops.set(session, ends.add(end))
    return stopped
  }

  // ---- calls to OpenCode

  async function choose(context, session, model) {
    const { providerID, modelID: id } = partsOf(model)
    keepEntry(shared.ours, session, model)
    await within(context.session.switchModel({ sessionID: session, model: { providerID, id } }))
  }

  async function chooseAgent(context, session, agent) {
    await within(context.session.switchAgent?.({ sessionID: session, agent }))
  }

  async function sessionOf(context, session) {
    const found = await within(context.session.get({ sessionID: session }))
    const { model, agent, parentID: parent } = found?.data ?? found ?? {}
    return { model: modelName(model), agent, parent }
  }

  /** Return the default model of sessions for which none was chosen, if OpenCode reports one. */
  async function standardModel(context) {
    const found = await within(context.model?.default?.())
    return modelName(found?.data ?? found)
  }

  /** Return the name of another active fallback plugin: both together would move a session twice. */
  async function rival(context) {
    try {
      const found = await within(context.plugin?.list?.())
      const listed = found?.data ?? found
      const name = rivalIn((Array.isArray(listed) ? listed : []).map((entry) => entry?.id ?? entry).filter(foreign))
      if (name) describe({ standing_back: `another fallback plugin is active: ${name}` })
      return name
    } catch {
      return undefined // this OpenCode cannot list its plugins
    }
  }

  return { start }
}

/**
 * Return what these messages need from a model. Tokens are estimated from the length, because no count is available.
 */
function needsOf(messages) {
  if (!Array.isArray(messages)) return
  const found = { chars: 0, inputs: new Set(), tools: false }
  for (const message of messages) collectNeeds(message, found, 0)
  return { tokens: Math.floor(found.chars / CHARS_PER_TOKEN), inputs: [...found.inputs], tools: found.tools }
}

/** Add the needs of a part of a message, and of everything in it, to `found`. */
function collectNeeds(value, found, depth) {
  if (typeof value === "string") found.chars += value.length
  if (!value || typeof value !== "object" || ArrayBuffer.isView(value) || depth > DEEP) return
  if (Array.isArray(value)) return value.forEach((each) => collectNeeds(each, found, depth + 1))
  const mime = [value.mime, value.mediaType, value.mimeType].find((name) => typeof name === "string")
  const [kind, subtype] = mime?.split("/") ?? []
  const medium = subtype === "pdf" ? "pdf" : MEDIA.includes(kind) && kind
  if (medium) return void found.inputs.add(medium) // its data is not text
  if (typeof value.type === "string" && value.type.startsWith("tool")) found.tools = true
  for (const each of Object.values(value)) collectNeeds(each, found, depth + 1)
}

const foreign = (id) => typeof id === "string" && !id.startsWith("ocwatchd.")

const modelName = (model) => (model?.providerID && model?.id ? `${model.providerID}/${model.id}` : undefined)

/** Return OpenCode's answer; throws if it takes longer than CALL_TIMEOUT. */
async function within(work) {
  const late = timer(Date.now() + CALL_TIMEOUT)
  try {
    return await Promise.race([work, late.promise.then(() => Promise.reject(new Error("OpenCode does not answer")))])
  } finally {
    late.forget()
  }
}

/** Return a promise that resolves at `end` (epoch ms) by the wall clock, and `forget`, which cancels it. */
function timer(end) {
  const { promise, resolve } = Promise.withResolvers()
  let handle
  const wait = () => {
    const left = end - Date.now()
    if (!(left > 0)) return resolve({ verdict: "retry" })
    handle = setTimeout(wait, Math.min(left, MAX_TIMER))
  }
  wait()
  return { promise, forget: () => clearTimeout(handle) }
}

/** Add a value to a set of at most REMEMBERED values, from which the oldest is dropped. */
function keep(set, value) {
  if (!value) return
  set.delete(value)
  set.add(value)
  if (set.size > REMEMBERED) set.delete(set.values().next().value)
}

/** Set an entry of a map with at most REMEMBERED entries, from which the oldest is dropped. */
function keepEntry(map, key, value) {
  map.delete(key)
  map.set(key, value)
  if (map.size > REMEMBERED) map.delete(map.keys().next().value)
}
